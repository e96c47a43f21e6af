"""The planted world that the tests share: tiny models, a word tokenizer, a lineage on disk.

Nothing is downloaded. Session fixtures are read-only: a test that trains or edits weights asks
for its own model (`make_model`, `aligned_model`). `workbench` is imported inside the fixtures, so
that jaxtyping's hook, installed before, checks its signatures.
"""

import os
import random
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

# Heavy packages come first: imported below the hook, Python would compile them anew each time.
import beartype._check.code.codemain
import pytest
import scipy.stats  # noqa: F401
import torch
import transformer_lens  # noqa: F401
from families import BLOCKS, CONFIGS, REPRESENTATIVE, SCALES
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

# Type checks look at random items: they draw from a stream of their own, not from the caller's.
beartype._check.code.codemain.getrandbits = random.Random(0).getrandbits

# Results are compared bit for bit: one thread, so that sums are always taken in one order.
torch.set_num_threads(1)

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "User", ":", "Assistant")
WORDS = [a + b for a in "bdfgklmnprstvz" for b in ("ako", "elu", "ina", "omi", "ura")][:57]
VOCABULARY = [*SPECIAL, *WORDS]


def pytest_collection_modifyitems(items):
    """Run the guests last: building a bridge patches attention classes of the whole process."""
    items.sort(key=lambda item: item.path.stem == "test_guests")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    ids = {word: index for index, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session", params=REPRESENTATIVE)
def architecture(request):
    """Architectures that stand for all; test_families.py has every one."""
    return request.param


@pytest.fixture(scope="session")
def make_hf():
    """Build a tiny Hugging Face model; no bias is 0 and no norm is the identity in it."""

    def make(architecture="gpt2", *, seed=0, **overrides):
        config = CONFIGS[architecture]()
        for key, value in overrides.items():
            setattr(config, key, value)
        scale = SCALES.get(architecture, 10)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            hf = AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for parameter in hf.parameters():
                    # Else a reading one norm too far, or without a bias, would look right.
                    if parameter.ndim == 1:
                        parameter += 0.3 * torch.randn_like(parameter)
                    else:
                        parameter *= scale
        return hf.eval()

    return make


@pytest.fixture(scope="session")
def make_model(make_hf, tokenizer):
    """Build a `HookedModel` around a new tiny model."""

    def make(architecture="gpt2", *, seed=0, chat=None, **overrides):
        from workbench.models import HookedModel

        return HookedModel(make_hf(architecture, seed=seed, **overrides), tokenizer, chat=chat)

    return make


@pytest.fixture(scope="session")
def model(make_model):
    """A read-only GPT-2 with dropout in its config."""
    return make_model()


@pytest.fixture(scope="session")
def blocks_of():
    """Return the decoder blocks of a Hugging Face model, by the names that we know them under."""

    def find(hf):
        return next(module for name, module in hf.named_modules() if name in BLOCKS)

    return find


@pytest.fixture(scope="session")
def plain_stream(blocks_of):
    """Read the stream into the first block and after every block, by plain torch hooks."""

    def read(hf, ids, mask=None):
        seen = []

        def keep_input(block, args, kwargs):  # noqa: ARG001
            seen.append(args[0] if args else kwargs["hidden_states"])

        def keep(block, args, out):  # noqa: ARG001
            seen.append(out[0] if isinstance(out, tuple) else out)

        blocks = blocks_of(hf)
        handles = [blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True)]
        handles += [block.register_forward_hook(keep) for block in blocks]
        hf(input_ids=ids, attention_mask=mask, use_cache=False)
        for handle in handles:
            handle.remove()
        return torch.stack(seen)

    return read


@pytest.fixture(scope="session")
def tokens():
    return torch.randint(7, len(VOCABULARY), (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def sentence():
    """Return a made-up sentence: the same for the same number."""

    def make(number, words=None):
        rng = random.Random(number)
        return " ".join(rng.choices(WORDS, k=words or rng.randint(3, 9)))

    return make


@pytest.fixture(scope="session")
def probes(sentence):
    """24 harmful and 8 benign prompts of different lengths, with responses."""
    from workbench.probes import Probe, ProbeSet

    kinds = enumerate(["harmful"] * 24 + ["benign"] * 8)
    return ProbeSet(tuple(Probe(sentence(n), kind, None, sentence(1000 + n)) for n, kind in kinds))


@pytest.fixture(scope="session")
def examples(sentence):
    """10 training examples of different lengths."""
    return [
        {"prompt": sentence(2000 + number), "response": sentence(3000 + number)}
        for number in range(10)
    ]


@pytest.fixture(scope="session")
def planted_shift():
    """The vector by which the helpful model differs from the aligned one after layer 0."""
    return 0.3 * torch.randn(32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def lineage_file(tmp_path_factory, make_hf, tokenizer, planted_shift):
    """A lineage on disk: helpful is aligned plus a shift after layer 0; a sibling is near it."""
    root = tmp_path_factory.mktemp("lineage")
    phases = {name: make_hf() for name in ("helpful", "aligned", "sibling")}
    phases["pretrained"] = make_hf(seed=1)
    with torch.no_grad():
        phases["helpful"].transformer.h[0].mlp.c_proj.bias += planted_shift
        phases["sibling"].transformer.h[0].mlp.c_proj.bias += 0.1 * planted_shift.flip(0)
    for name, hf in phases.items():
        hf.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    tables = "".join(
        f'[[phase]]\nname = "{name}"\nmodel = "{name}"\n'
        for name in ("pretrained", "helpful", "aligned", "sibling")
    )
    roles = '[roles]\nwitness = "helpful"\naligned = "aligned"\nsibling = "sibling"\n'
    path = root / "lineage.toml"
    path.write_text(f'name = "planted"\nchat = "builtin"\n{roles}{tables}')
    return path


@pytest.fixture(scope="session")
def lineage(lineage_file):
    from workbench.phases import Lineage

    return Lineage.load(lineage_file)


@pytest.fixture(scope="session")
def splits(probes):
    """The fit, penalty and measure splits of the harmful probes."""
    return probes.of_kind("harmful").split(fit=0.4, penalty=0.3, measure=0.3)


@pytest.fixture(scope="session")
def directions(lineage, splits):
    from workbench.directions import fit_directions

    return fit_directions(lineage, splits[0])


@pytest.fixture
def aligned_model(lineage):
    """A fresh copy of the aligned model, to train or edit."""
    return lineage.load_model(lineage.aligned)


@pytest.fixture(scope="session")
def tune(examples):
    """Make a small `FineTuning`: 5 steps of 4 examples, at a rate that visibly moves weights."""

    def make(model, rows=examples, **options):
        from workbench.finetune import FineTuning

        small = {"steps": 5, "batch_size": 4, "learning_rate": 1e-3}
        return FineTuning(model, rows, **small | options)

    return make


@pytest.fixture(scope="session")
def weights_of():
    """Copy the weights of a hooked model, by name."""

    def copy(model):
        return {name: value.detach().clone() for name, value in model.hf.named_parameters()}

    return copy


@pytest.fixture(scope="session")
def inputs_folder(tmp_path_factory, lineage_file, sentence):
    """The planted lineage with every input file of an experiment beside it; read-only."""
    from planted_inputs import write_inputs

    folder = tmp_path_factory.mktemp("inputs") / "planted"
    return write_inputs(folder, lineage_file.parent, sentence)


@pytest.fixture
def readings():
    """Readings of witness, aligned and fine-tuned model: fewer prompts than dimensions."""
    generator = torch.Generator().manual_seed(3)
    aligned = torch.randn(3, 9, 24, generator=generator) + 4
    shift, moved = torch.randn(2, 3, 1, 24, generator=generator)
    noise = torch.randn(2, 3, 9, 24, generator=generator)
    witness = aligned + shift + 0.5 * noise[0]
    return witness, aligned, aligned + 0.4 * shift + 0.6 * moved + 0.5 * noise[1]


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def unflushed():
    """Nothing here has to survive a power cut, and waiting for the disk takes half of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def browser():
    """A Chromium that is already on the machine; WORKBENCH_BROWSER=required makes it a must."""
    try:
        from playwright.sync_api import sync_playwright

        lacking = None if (chromium := find_chromium()) else "no Chromium on this machine"
    except ImportError:
        lacking = "Playwright is not installed: pip install -e '.[browser]'"
    if lacking:
        (pytest.fail if os.environ.get("WORKBENCH_BROWSER") == "required" else pytest.skip)(lacking)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def find_chromium():
    """Where a Chromium is, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)
