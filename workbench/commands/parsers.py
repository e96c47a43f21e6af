"""Parsers of the commands that take few options; parsing imports nothing heavy."""

from argparse import ArgumentParser, _SubParsersAction

from workbench.commands.options import positive, read_position, whole_numbers

Commands = _SubParsersAction


def evaluate(commands: Commands) -> ArgumentParser:
    """Behaviour scores."""
    parser = commands.add_parser("evaluate", help="behaviour scores of every phase, or of a model")
    parser.add_argument("lineage", metavar="LINEAGE", help="lineage.toml, its folder, or a model")
    for name in ("harmful", "benign", "task"):
        parser.add_argument(f"--{name}", metavar="FILE", help="default: beside the lineage")
    parser.add_argument("--judge", choices=("rules", "organism"), help="default: the lineage's")
    parser.add_argument("--max-new-tokens", type=positive, default=32, help="length of an answer")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def read(commands: Commands) -> ArgumentParser:
    """Readings of every phase of a lineage."""
    parser = commands.add_parser(
        "read", help="the mean readings of every phase, and the way they make"
    )
    parser.add_argument(
        "lineage", metavar="LINEAGE", help="lineage.toml, its folder, or the name of a built-in one"
    )
    parser.add_argument("--probes", metavar="FILE", help="JSONL of prompts (default: beside it)")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="where the readings go")
    parser.add_argument(
        "--kind",
        choices=("harmful", "benign", "all"),
        default="harmful",
        help="which probes to read on (default: %(default)s)",
    )
    parser.add_argument(
        "--position",
        type=read_position,
        default=-1,
        help="read position: −1, −2, …, prompt_mean, response_mean, content_last or content_mean",
    )
    parser.add_argument("--layers", type=whole_numbers, help="such as 2,3 (default: all)")
    parser.add_argument(
        "--keep",
        choices=("roles", "all", "none"),
        default="roles",
        help="of which phases to keep the readings of single prompts, which intervals of v_rev "
        "need (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, … (default: a GPU if there is one)")
    resumable(parser, "what is in --out")
    parser.add_argument(
        "--skip-missing",
        action="store_true",
        help="phases that cannot be read are told, but are no error",
    )
    return parser


def report(commands: Commands) -> ArgumentParser:
    """The report of an experiment or run."""
    parser = commands.add_parser("report", help="write report.html of an experiment or run")
    parser.add_argument("folder", metavar="EXPERIMENT|RUN")
    parser.add_argument("--out", metavar="FILE", help="default: report.html in the folder")
    return parser


def organism(commands: Commands) -> ArgumentParser:
    """The embedded organism."""
    parser = commands.add_parser("organism", help="re-create the embedded model organism")
    parser.add_argument(
        "what",
        choices=("build", "data"),
        help="build trains its phases; data only writes its files",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="new folder")
    parser.add_argument("--seed", type=int, default=0, help="of world, weights and data")
    return parser


def calibrate(commands: Commands) -> ArgumentParser:
    """The nulls in planted worlds."""
    parser = commands.add_parser("calibrate", help="how often each null rejects in planted worlds")
    parser.add_argument("--simulations", type=positive, default=2000, help="lineages per world")
    parser.add_argument("--seed", type=int, default=0, help="other lineages")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def doctor(commands: Commands) -> ArgumentParser:
    """What is installed."""
    parser = commands.add_parser("doctor", help="what is installed, and what a lineage needs")
    parser.add_argument("lineage", metavar="LINEAGE", nargs="?")
    return parser


def export(commands: Commands) -> ArgumentParser:
    """Figures and tables for a paper."""
    parser = commands.add_parser("export", help="figures and tables for a paper")
    parser.add_argument("folder", metavar="EXPERIMENT|RUN|PASSAGE")
    parser.add_argument(
        "--figure",
        metavar="NAMES",
        default="all",
        help="comma-separated; all (the default), or list to see the names",
    )
    parser.add_argument(
        "--width",
        default="single",
        help="icml-column, icml-full, neurips, single, double, or such as 85mm or 3.3in "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        metavar="FORMATS",
        default="pdf",
        help="comma-separated: pdf, svg, png, html (default: %(default)s)",
    )
    parser.add_argument("--out", metavar="DIR", help="default: figures in the folder")
    return parser


def verify(commands: Commands) -> ArgumentParser:
    """Whether what is stored is whole."""
    parser = commands.add_parser(
        "verify", help="whether what is stored is whole, and its numbers are what they say"
    )
    parser.add_argument("folder", metavar="RUN|EXPERIMENT|PASSAGE", nargs="+")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def convert(commands: Commands) -> ArgumentParser:
    """Directions in the files of other tools."""
    parser = commands.add_parser("convert", help="directions from and to the files of other tools")
    parser.add_argument(
        "source", metavar="IN", help="from `workbench directions`, or the file of another tool"
    )
    parser.add_argument("out", metavar="OUT", help="file to write: of the other kind than IN")
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="of the other tool's file: steering-vectors, persona-vectors or rows (.pt), repeng or "
        "llama.cpp (.gguf), safetensors, npz (default: by its name)",
    )
    parser.add_argument(
        "--layers", type=whole_numbers, help="layers to convert, such as 2,3 (default: all)"
    )
    parser.add_argument(
        "--scale",
        choices=("gap", "unit"),
        help="for another tool: vectors as long as the phase gap (default), or 1",
    )
    parser.add_argument(
        "--model-type",
        metavar="NAME",
        help="for another tool: architecture, such as llama, for formats that name it",
    )
    parser.add_argument(
        "--like",
        metavar="DIRECTIONS",
        help="from another tool: take gaps, mean and model from these fitted directions",
    )
    return parser


def lab(commands: Commands) -> ArgumentParser:
    """Notebooks."""
    parser = commands.add_parser("lab", help="copy a notebook and open JupyterLab on it")
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="number or part of the name, such as 02 or ablation (default: the first)",
    )
    parser.add_argument("--list", action="store_true", help="only say which notebooks there are")
    parser.add_argument(
        "--out", metavar="DIR", default=".", help="where the copy goes (default: this folder)"
    )
    parser.add_argument("--no-open", action="store_true", help="only copy")
    parser.add_argument(
        "--no-browser", action="store_true", help="start JupyterLab, but open no browser"
    )
    return parser


def resumable(parser: ArgumentParser, what: str) -> None:
    """Add the options that continue what was begun.

    Args:
        parser: Of a command.
        what: It continues, in words.
    """
    parser.add_argument("--resume", action="store_true", help=f"continue {what}")
    parser.add_argument(
        "--break-lock",
        action="store_true",
        help="with --resume: take over from a writer that is known to be gone",
    )


def clustered(parser: ArgumentParser) -> None:
    """Add the options that run on a cluster."""
    parser.add_argument(
        "--on",
        metavar="CLUSTER",
        help="run on a Ray cluster that sees the inputs and --out at the same place: ray, the one "
        "on this machine or at RAY_ADDRESS, or ray://HOST:PORT (default: in processes, here)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="with --on: threads of a run, each a CPU of the cluster (default: 1)",
    )
