"""`doctor`'s answer on a rich console. Takes plain rows: this room does not know where they come from."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

EnvironmentRow = tuple[str, str, bool, str, str, str]
"""Kind, name, whether it is here, version or detail, what it serves, what to type where it is missing."""


def print_environment(rows: Sequence[EnvironmentRow], console: Console) -> None:
    """Prints the rows grouped by kind, and in the end the lines to type for what is missing."""
    width = max((len(name) for _, name, *_ in rows), default=0)
    kinds = list(dict.fromkeys(kind for kind, *_ in rows))
    for kind in kinds:
        console.print(Text(f"{kind}s", style="bold"))
        for _, name, present, detail, serves, hint in (row for row in rows if row[0] == kind):
            line = Text("  ")
            line.append("yes  " if present else "no   ", style="green" if present else "dim")
            line.append(f"{name.ljust(width)}  ")
            line.append(detail if present else "not found", style="" if present else "dim")
            line.append(f"  ({serves})" if serves else "", style="dim")
            console.print(line, soft_wrap=True)
            if hint:
                console.print(Text(f"{' ' * (width + 9)}hint: {hint}"), soft_wrap=True)
