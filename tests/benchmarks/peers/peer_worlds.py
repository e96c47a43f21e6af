"""What every tool works on: two models, prompts in fixed batches, training rows; in one folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

TOKENS_PER_BATCH = 512
N_PROBES = 64
TRAIN_SHAPE = (16, 32)
EDIT_SIZE = 0.01
"""Length of what the job `hooks` adds to every token after every layer."""


@dataclass(frozen=True)
class Size:
    """A Llama to build: random weights, tied embeddings."""

    layers: int
    width: int
    inner: int
    heads: int = 4
    vocabulary: int = 1_000
    steps: int = 10
    """Training steps per timing."""


SIZES = {
    "0.1M": Size(4, 48, 128, steps=20),
    "10M": Size(8, 320, 864, steps=5),
    "10M-50k": Size(8, 320, 864, vocabulary=50_000, steps=3),
    "100M": Size(12, 768, 2048, heads=12, vocabulary=16_000, steps=2),
}


@dataclass(frozen=True)
class World:
    """One size of model and what is read and trained."""

    folder: Path
    """Holds the models `aligned` and `witness`, each with its tokenizer."""

    size: Size
    texts: list[str]
    ids: list[list[int]]
    """The same prompts as tokens: what the tokenizer makes of `texts`, nothing added."""

    train: list[list[int]]
    """Rows of equal length; all of them are one batch."""

    train_texts: list[str] = field(default_factory=list)
    """The same rows, less the end of sequence that is their last token."""

    @classmethod
    def load(cls, folder: str | Path, prompts: int | None = None) -> "World":
        """Read a world, or its first prompts."""
        told = json.loads((Path(folder) / "world.json").read_text(encoding="utf-8"))
        world = cls(Path(folder), Size(**told.pop("size")), **told)
        return world.first(prompts or len(world.texts))

    def first(self, prompts: int, steps: int | None = None) -> "World":
        """Return the world with only the first prompts, and perhaps fewer steps."""
        size = self.size if steps is None else replace(self.size, steps=steps)
        return replace(self, size=size, texts=self.texts[:prompts], ids=self.ids[:prompts])

    @property
    def aligned(self) -> str:
        """Folder of the model that is read and trained."""
        return str(self.folder / "aligned")

    @property
    def witness(self) -> str:
        """Folder of the other model of a direction."""
        return str(self.folder / "witness")

    def probes(self) -> "World":
        """Return the world with only the prompts that drift is measured on."""
        return self.first(N_PROBES)

    def batches(self) -> list[list[int]]:
        """Return prompt indices in batches of similar length, of at most so many tokens."""
        batches: list[list[int]] = []
        for index in sorted(range(len(self.ids)), key=lambda index: len(self.ids[index])):
            length = len(self.ids[index])
            if not batches or len(batches[-1]) >= TOKENS_PER_BATCH // length:
                batches.append([])
            batches[-1].append(index)
        return batches

    def text_batches(self) -> list[list[str]]:
        """Return the same batches as text."""
        return [[self.texts[index] for index in batch] for batch in self.batches()]

    def sorted_texts(self) -> list[str]:
        """Return all prompts in the order of the batches."""
        return [text for batch in self.text_batches() for text in batch]

    def tensors(self) -> list["Batch"]:
        """Return the batches right-padded."""
        return [Batch.of([self.ids[index] for index in batch]) for batch in self.batches()]

    def tensors_in_order(self) -> list["Batch"]:
        """Return batches of 32 prompts in the order given, as one would make them at first."""
        return [Batch.of(self.ids[start : start + 32]) for start in range(0, len(self.ids), 32)]

    def train_tokens(self) -> torch.Tensor:
        """Return the training batch."""
        return torch.tensor(self.train)

    def edits(self) -> torch.Tensor:
        """Return what `hooks` adds after every layer, [layer, d_model]."""
        generator = torch.Generator().manual_seed(1)
        vectors = torch.randn(self.size.layers, self.size.width, generator=generator)
        return EDIT_SIZE * vectors / vectors.norm(dim=-1, keepdim=True)

    def directions(self) -> torch.Tensor:
        """Return unit vectors to measure drift along, [layer, d_model]."""
        return self.edits() / EDIT_SIZE


@dataclass(frozen=True)
class Batch:
    """Some prompts, right-padded."""

    tokens: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor
    last: torch.Tensor
    """Column of the last token of each row."""

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]]) -> "Batch":
        """Pad."""
        lengths = torch.tensor([len(row) for row in ids])
        longest = int(lengths.max())
        tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids])
        mask = (torch.arange(longest)[None] < lengths[:, None]).long()
        return cls(tokens, mask, torch.arange(len(ids)), lengths - 1)

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What a transformers model is called with."""
        return {"input_ids": self.tokens, "attention_mask": self.mask}


def build(folder: str | Path, size: Size, prompts: int = 2_000) -> World:
    """Write a world; the same arguments write the same one."""
    folder = Path(folder)
    words = [f"w{number}" for number in range(size.vocabulary - 3)]
    tokenizer = _tokenizer(words)
    texts, train_texts = _texts(words, prompts, np.random.default_rng(0))
    torch.manual_seed(0)
    model = _model(size)
    for name in ("aligned", "witness"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        _for_older_readers(folder / name / "tokenizer_config.json")
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight += 0.05 * weight.std() * torch.randn_like(weight)
    world = World(
        folder,
        size,
        texts,
        [_ids(tokenizer, text) for text in texts],
        [[*_ids(tokenizer, text), tokenizer.eos_token_id] for text in train_texts],
        train_texts,
    )
    told = {key: value for key, value in asdict(world).items() if key != "folder"}
    (folder / "world.json").write_text(json.dumps(told), encoding="utf-8")
    return world


def _for_older_readers(path: Path) -> None:
    """Name the tokenizer's class as transformers 4 and 5 both know it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config), encoding="utf-8")


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


def _texts(
    words: list[str], prompts: int, generator: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Prompts of 8 to 39 words, one in fifty of 90 to 109; training rows of equal length."""
    lengths = generator.integers(8, 40, prompts)
    long = np.arange(prompts) % 50 == 49
    lengths[long] = generator.integers(90, 110, int(long.sum()))
    rows, columns = TRAIN_SHAPE

    def draw(length: int) -> str:
        return " ".join(words[pick] for pick in generator.integers(len(words), size=length))

    return [draw(length) for length in lengths], [draw(columns - 1) for _ in range(rows)]


def _tokenizer(words: list[str]) -> Any:
    """One token per word; padding is 0, and nothing is added to a text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<eos>", "<unk>")
    vocabulary = {word: index for index, word in enumerate((*special, *words))}
    fast = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        # What a conversation says and nothing else, for tools that insist on a template.
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
        padding_side="right",
        model_max_length=256,
    )


def _model(size: Size) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size.vocabulary,
        num_hidden_layers=size.layers,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)
