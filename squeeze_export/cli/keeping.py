"""The option `--keep-float`, and what `analyze` reads into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from squeeze_export.cli.options import SOURCES, F, Repeatable, option
from squeeze_export.errors import BadInput


def keep_float_option(text: str) -> Callable[[F], F]:
    """`--keep-float LAYER`, which may be given again."""
    return option("--keep-float", cls=Repeatable, multiple=True, metavar="LAYER", help=text)


def keep_choice(values: dict[str, Any]) -> tuple[tuple[str, ...] | int, float | None]:
    """The layers by name or number, and the bound: what `--keep-float` and `--max-drop` say.

    The one from the command line leaves the other one of the environment or the settings file behind, and so on.

    Raises:
        BadInput: a number beside names, or several numbers.
    """
    named, max_drop = values["keep_float"], values["max_drop"]
    if named and max_drop is not None:
        ctx = click.get_current_context()
        ranks = [SOURCES.index(ctx.get_parameter_source(name)) for name in ("keep_float", "max_drop")]
        if ranks[0] < ranks[1]:
            max_drop = None
        elif ranks[1] < ranks[0]:
            named = ()
    if not any(name.isdecimal() for name in named):
        return named, max_drop
    if len(named) > 1:
        raise BadInput(f"`{'` and `'.join(named)}`: --keep-float is names, or one number", hint="leave out the number")
    return int(named[0]), max_drop
