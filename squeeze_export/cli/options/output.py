"""What is written and printed."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from squeeze_export.cli.options import FILE, option

GROUP = "Output"


def _show_warnings(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        warnings.simplefilter("default")  # until `cli.run`, which ignores them otherwise, puts the old filters back


OUT = option(
    "--out",
    group=GROUP,
    type=FILE,
    default=Path("squeeze-export-out"),
    show_default=True,
    metavar="DIR",
    help="Folder to write to.",
)
OUTPUT = (
    option("--json", "as_json", group=GROUP, is_flag=True, help="Print the result as JSON on stdout."),
    option(
        "-v",
        "--verbose",
        group=GROUP,
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_warnings,
        help="Also show warnings of third-party libraries.",
    ),
)
