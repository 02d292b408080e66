"""Draws the picture of the README, as an SVG: the table of a real run of `squeeze-export all --int8`.

    squeeze-export all --int8 --weights squeezenet1_1.pth --calib imgs/ --eval val/ --labels classes.txt --out found
    python -m tools.readme_picture found/report.json

The run times the files, so let the machine do nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from squeeze_export.files import write_text
from squeeze_export.report.terminal import print_table
from squeeze_export.results import SCHEMA, Report

PICTURE = Path(__file__).parents[1] / "docs" / "all-int8.svg"
COMMAND = "squeeze-export all --int8 --weights squeezenet1_1.pth --calib imgs/ --eval val/ --labels classes.txt"
WIDTH = 118
"""Columns: the command and the table fit."""


def picture(report: Report) -> str:
    """The SVG of a report's first table, below the command. It loads no font: the reader's own monospace font serves."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False, markup=False)
    console.print(Text.assemble(("$ ", "bold green"), COMMAND))
    console.print()
    print_table(replace(report, verdicts=(), differences=()), console)
    drawing = console.export_svg(title="squeeze-export", unique_id="table")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")


def main() -> int:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=Path, help="the report.json of the run")
    write_text(PICTURE, picture(SCHEMA.read(parser.parse_args().report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
