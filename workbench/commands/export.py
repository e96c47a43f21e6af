"""`workbench export`: figures and tables of an experiment, run or passage, for a paper."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from workbench.commands.options import tell
from workbench.errors import ConfigError
from workbench.files import write_atomic
from workbench.passage import is_passage
from workbench.plots.catalogue import Named, figures_of, provenance_of
from workbench.plots.material import gather
from workbench.plots.paper.export import Press, format_of
from workbench.plots.paper.latex import summary_latex
from workbench.plots.paper.widths import inches
from workbench.storing import check_writable
from workbench.text import printable


def run(arguments: Namespace) -> None:
    """Write the figures that are asked for, in every format; of all, the tables, too."""
    formats = [format_of(name.strip()) for name in arguments.format.split(",")]
    inches(arguments.width)
    folder = Path(arguments.folder)
    material = None if is_passage(folder) else gather(folder)
    figures = figures_of(folder)
    if arguments.figure == "list":
        print("\n".join(figures))
        return
    out = Path(arguments.out or folder / "figures")
    chosen = _chosen(arguments.figure, figures)
    check_writable(out)
    with Press() as press:
        for one in chosen:
            for suffix in dict.fromkeys(formats):
                path = out / f"{one.name}.{suffix}"
                told = {"caption": one.caption, "provenance": one.provenance}
                press.export(one.figure, path, width=arguments.width, **told)
                print(printable(path))
        if press.remark:
            tell(arguments, press.remark)
    if arguments.figure == "all" and material is not None and material.summary is not None:
        tables = summary_latex(material.summary, provenance_of(material))
        write_atomic(out / "summary.tex", tables.encode())
        print(printable(out / "summary.tex"))


def _chosen(names: str, figures: Mapping[str, Named]) -> Sequence[Named]:
    if names == "all":
        return list(figures.values())
    asked = [name.strip() for name in names.split(",")]
    for name in asked:
        if name not in figures:
            raise ConfigError(f"No figure {name!r} here: there are {', '.join(figures)}.")
    return [figures[name] for name in dict.fromkeys(asked)]
