"""What to write and print."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import click

from squeeze_export.cli.options import FILE, option

_option = partial(option, group="Output")


def _show_warnings(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        warnings.simplefilter("default")  # until `cli.run`, which ignores them otherwise, puts the old filters back


OUT = _option("--out", type=FILE, default=Path("squeeze-export-out"), metavar="DIR", help="Folder to write to.")
OUTPUT = (
    _option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
    _option(
        "-v",
        "--verbose",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_warnings,
        help="Also show warnings of third-party libraries.",
    ),
)
