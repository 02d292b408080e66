"""What options take beyond click's own types, where it is more than a name."""

from __future__ import annotations

from typing import Any

import click


class Triple(click.ParamType[tuple[float, float, float]]):
    """Three numbers, one per channel: `123.7,116.3,103.5`."""

    name = "A,B,C"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float, float]:
        """Reads the text, or a list from the settings file."""
        parts = value.split(",") if isinstance(value, str) else value
        try:
            first, second, third = (float(part) for part in parts)
        except (TypeError, ValueError):
            self.fail(f"`{value}` is not three numbers: one per channel, with commas between", param, ctx)
        return (first, second, third)


class Cpus(click.ParamType[tuple[int, ...]]):
    """Logical CPUs: `0` or `0,2`."""

    name = "N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Reads the text, or a list from the settings file."""
        try:
            return tuple(int(part) for part in (value.split(",") if isinstance(value, str) else value))
        except (TypeError, ValueError):
            self.fail(f"`{value}` is not a list of CPU numbers", param, ctx)
