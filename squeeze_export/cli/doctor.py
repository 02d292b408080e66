"""`squeeze-export doctor`: what this machine has and lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from squeeze_export.cli.console import print_json, stdout_console
from squeeze_export.cli.options import Command
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.core import require
from squeeze_export.errors import Unavailable
from squeeze_export.measure.environment import Item, Probes, environment

if TYPE_CHECKING:
    from rich.console import Console


@click.command("doctor", cls=Command, params=[*OUTPUT])
def command(**values: Any) -> None:
    """List what is installed, which devices exist, and what to install for the rest.

    \b
    squeeze-export doctor
    """
    items = environment(Probes(providers=_providers))
    if values["as_json"]:
        print_json([asdict(item) for item in items])
        return
    _print(items, stdout_console())


def _print(items: Sequence[Item], console: Console) -> None:
    """Grouped by kind; below what is missing, what to type."""
    from rich.text import Text

    width = max((len(item.name) for item in items), default=0)
    for kind in dict.fromkeys(item.kind for item in items):
        console.print(Text(f"{kind}s", style="bold"))
        for item in (item for item in items if item.kind == kind):
            line = Text("  ")
            line.append("yes  " if item.present else "no   ", style="green" if item.present else "dim")
            line.append(f"{item.name.ljust(width)}  ")
            line.append(item.detail if item.present else "not found", style="" if item.present else "dim")
            line.append(f"  ({item.serves})" if item.serves else "", style="dim")
            console.print(line, soft_wrap=True)
            if item.hint:
                console.print(Text(f"{' ' * (width + 9)}hint: {item.hint}"), soft_wrap=True)


def _providers() -> Sequence[str] | None:
    try:
        providers: list[str] = require("onnxruntime", "onnx").get_available_providers()
    except Unavailable:
        return None
    return providers
