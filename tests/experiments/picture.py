"""Draw the README's picture of an experiment: `python picture.py FOLDER OUT.png`."""

import json
import sys
from pathlib import Path

from workbench.plots import alignment


def main(folder: str, out: str) -> None:
    """Write the alignment figure of an experiment as PNG; needs the `export` extra and Chromium."""
    summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
    alignment(summary).write_image(out, width=860, height=420, scale=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
