"""The recipe of the organism: how its phases are trained, and how the demo fine-tunes it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from workbench.config import Recipe
from workbench.encoding import special_token
from workbench.errors import RunError
from workbench.files import write_json
from workbench.finetune import FineTuning
from workbench.generation import answer
from workbench.loading import load_model, save_model
from workbench.models import HookedModel
from workbench.organism.grammar import judge
from workbench.organism.tokenizer import build_tokenizer
from workbench.organism.world import Example, World

TUNING_SEEDS = (100, 101, 102)
"""Build seeds on which the recipe was chosen."""

REPORTING_SEEDS = (0, 1, 2)
"""Build seeds on which results are reported; no number below was chosen on them."""

MAX_NEW_TOKENS = 20
"""No answer of the grammar is longer, its end included."""

Progress = Callable[[str], None]
"""Told in words how the building goes on."""


@dataclass(frozen=True)
class Stage:
    """Some steps of training at one learning rate."""

    steps: int
    learning_rate: float
    batch_size: int
    warmup: int


@dataclass(frozen=True)
class OrganismRecipe:
    """Sizes of the model, and the stages of its phases."""

    n_layers: int = 4
    d_model: int = 96
    d_mlp: int = 192
    n_heads: int = 4
    n_ctx: int = 64

    initial_std: float = 0.08
    """Of the initial weights. At the usual 0.02 copying a word is learnt three times later."""

    pretrained: tuple[Stage, ...] = (Stage(1700, 3e-3, 16, 50), Stage(400, 8e-4, 16, 10))
    helpful: tuple[Stage, ...] = (Stage(200, 1e-3, 32, 20),)
    aligned: tuple[Stage, ...] = (Stage(300, 5e-4, 32, 10),)


RECIPE = OrganismRecipe()
"""The recipe of the shipped lineages."""

DEMO = Recipe(steps=100, learning_rate=6e-5, batch_size=16, warmup=1)
"""The demo's fine-tuning."""

DEMO_STRENGTHS = {
    "block": 10.0,
    "push": 3.0,
    "ablate": 1.0,
    "steer": 0.1,
    "cap": 1.0,
    "project": 1.0,
    "anchor-kl": 1.0,
    "anchor-penalty": 1.0,
    "anchor-weights": 0.1,
    "rehearse": 0.0625,
}
"""Of the demo's arms, chosen on the tuning seeds: about as strong as a task cost of 1 % allows."""

_LINEAGE = """\
name = "{name}"
chat = "tokenizer"
judge = "organism"

[roles]
witness = "helpful"
aligned = "aligned"
sibling = "aligned-b"
"""
_PHASES = ("pretrained", "helpful", "aligned", "aligned-b")


def build(
    out: str | Path, seed: int, progress: Progress | None = None, *, recipe: OrganismRecipe = RECIPE
) -> dict[str, dict[str, float]]:
    """Train the lineage of `seed` and write its phases, `lineage.toml` and data files.

    The sibling `aligned-b` comes from the same helpful phase, with another sample of alignment
    examples and refusals in another order.

    Args:
        out: Folder to write; it must be empty or not exist.
        seed: Of the world, the initial weights and all data orders.
        progress: Called with a line of text now and then.
        recipe: Sizes and stages.

    Returns:
        The quality of every phase, as `measure_quality` gives it; also written to `quality.json`.

    Raises:
        RunError: If `out` is already used.
    """
    out, tell = Path(out), progress or _silent
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: already used; choose another output folder.")
    world = World(seed)
    write_data(out, seed)
    tokenizer = build_tokenizer(world.vocabulary())
    model = load_model(_initial_model(recipe, tokenizer, seed), tokenizer=tokenizer, device="cpu")
    quality = {}
    for number, phase in enumerate(_PHASES):
        if number > 1:
            model = load_model(out / "helpful", device="cpu")
        examples, stages = _curriculum(world, phase, recipe)
        # A word that a phase never says would be unlearnt: its only gradients push it down, and
        # AdamW makes large steps of small gradients. After pretraining words keep their embeddings.
        trainable = None if phase == "pretrained" else _is_not_embedding
        for turn, stage in enumerate(stages):
            order = 1_000 * seed + 10 * number + turn
            _train(model, examples, stage, order, trainable, f"{phase}, stage {turn + 1}", tell)
        save_model(model, out / phase)
        quality[phase] = measure_quality(model, world)
        told = ", ".join(f"{name} {value:.1%}" for name, value in quality[phase].items())
        tell(f"{phase}: {told}")
    write_json(out / "quality.json", quality)
    return quality


def write_data(out: str | Path, seed: int) -> None:
    """Write the lineage file and the data files of the lineage of `seed`."""
    out, world = Path(out), World(seed)
    out.mkdir(parents=True, exist_ok=True)
    tables = "".join(f'\n[[phase]]\nname = "{name}"\nmodel = "{name}"\n' for name in _PHASES)
    name = f"organism-{seed}"
    (out / "lineage.toml").write_text(_LINEAGE.format(name=name) + tables, encoding="utf-8")
    for name in ("probes", "finetune", "task", "harmful", "benign"):
        lines = [json.dumps(example) + "\n" for example in getattr(world, name)()]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def measure_quality(model: HookedModel, world: World) -> dict[str, float]:
    """Return shares of greedy answers on held-out requests, from 0 to 1."""
    shares = {}
    for kind, examples in (("forbidden", world.harmful()), ("benign", world.benign())):
        prompts = [example["prompt"] for example in examples]
        said = [one.text for one in answer(model, prompts, max_new_tokens=MAX_NEW_TOKENS)]
        verdicts = [judge(prompt, text) for prompt, text in zip(prompts, said, strict=True)]
        for name, verdict in (("refused", "refuse"), ("answered", "comply"), ("broken", "broken")):
            shares[f"{name}_{kind}"] = verdicts.count(verdict) / len(verdicts)
        right = [world.correct(*pair) for pair in zip(examples, said, strict=True)]
        shares[f"correct_{kind}"] = sum(right) / len(right)
    return shares


def _initial_model(
    recipe: OrganismRecipe, tokenizer: PreTrainedTokenizerBase, seed: int
) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_heads,
        max_position_embeddings=recipe.n_ctx,
        initializer_range=recipe.initial_std,
        tie_word_embeddings=True,
        pad_token_id=special_token(tokenizer, "pad"),
        bos_token_id=special_token(tokenizer, "bos"),
        eos_token_id=special_token(tokenizer, "eos"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _curriculum(
    world: World, phase: str, recipe: OrganismRecipe
) -> tuple[list[Example], tuple[Stage, ...]]:
    if phase == "pretrained":
        return world.pretraining(), recipe.pretrained
    if phase == "helpful":
        return world.helpful(), recipe.helpful
    return world.aligned(int(phase == "aligned-b")), recipe.aligned


def _is_not_embedding(name: str) -> bool:
    return "embed_tokens" not in name and "lm_head" not in name


def _train(
    model: HookedModel,
    examples: Sequence[Example],
    stage: Stage,
    seed: int,
    trainable: Callable[[str], bool] | None,
    name: str,
    tell: Progress,
) -> None:
    tuning = FineTuning(
        model,
        examples,
        steps=stage.steps,
        learning_rate=stage.learning_rate,
        batch_size=stage.batch_size,
        warmup=stage.warmup,
        seed=seed,
        trainable=trainable,
    )
    for record in tuning:
        if record.step % 100 == 0:
            tell(f"{name}: step {record.step} of {stage.steps}, loss {record.loss:.2f}")


def _silent(text: str) -> None:
    pass
