"""The options that commands share, a file for each topic. An option is a value, and a command gets a list of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from squeeze_export.errors import BadInput, did_you_mean

T = TypeVar("T")

GROUPS = ("Options", "Most used", "Input", "Untold by a state dict", "Calibration", "Quantization", "File", "Running", "Output")
"""Headings of the help, in order. A command's own options are under the first."""

FILE = click.Path(path_type=Path)
FILE.name = "file"  # what the help calls it
FILES = click.Argument(["files"], nargs=-1, required=True, type=FILE, metavar="FILE...")


class Option(click.Option):
    """An option in a group of the help."""

    def __init__(self, *names: Any, group: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.group = group

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Reads the value, or several. Those of the settings file have TOML's types: `int` would round 1.5, and take `true`."""
        values = value or () if self.multiple else (value,)
        wanted = next((word for kind, kinds, word in _WANTED if isinstance(self.type, kind) and _has_other(values, kinds)), None)
        if wanted is not None:
            raise click.BadParameter(f"`{value}` is not {wanted}", ctx, self)
        return super().type_cast_value(ctx, value)


class Repeatable(Option):
    """An option that may be repeated; in the settings file a single value needs no list."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Reads the values."""
        return super().type_cast_value(ctx, value if value is None or isinstance(value, list | tuple) else [value])


_WANTED: tuple[tuple[Any, tuple[type, ...], str], ...] = (
    (click.types.IntParamType, (str, int), "a whole number"),
    (click.types.FloatParamType, (str, int, float), "a number"),
    (click.Path, (str, Path), "a file name"),
)
"""Type of an option, types that its values may have, and what they are called."""


def _has_other(values: Sequence[Any], kinds: tuple[type, ...]) -> bool:
    """Whether one of the values is there but of another type than these."""
    return any(each is not None and (isinstance(each, bool) or not isinstance(each, kinds)) for each in values)


def option(*names: str, group: str = GROUPS[0], cls: type[Option] = Option, **settings: Any) -> Option:
    """An option that can also be set as SQUEEZE_EXPORT_<LONG NAME>. The help shows its default."""
    long = next(name for name in names if name.startswith("--"))
    variable = "SQUEEZE_EXPORT_" + long.removeprefix("--").replace("-", "_").upper()
    return cls(names, group=group, envvar=variable, **{"show_default": "default" in settings, **settings})


def source_of(name: str) -> ParameterSource:
    """Where an option of the running command was set. The lower of two sources overrides the other."""
    return click.get_current_context().get_parameter_source(name) or ParameterSource.DEFAULT


def call_with(function: Callable[..., T], values: Mapping[str, Any]) -> T:
    """Calls a function with those of a command's values that are named like its parameters; the others keep their defaults."""
    return function(**{name: values[name] for name in inspect.signature(function).parameters if name in values})


class Numbers(click.ParamType[tuple[Any, ...]]):
    """Numbers with commas between, such as `0,2`; in the settings file a list.

    Args:
        name: what the help shows.
        kind: `int` or `float`.
        wanted: what they are, for the error.
        count: how many there must be; None takes any.
    """

    def __init__(self, name: str, kind: type[int | float], wanted: str, count: int | None = None) -> None:
        self.name, self._kind, self._wanted, self._count = name, kind, wanted, count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Reads the text, or the list."""
        try:
            parts = _parts(value)
            numbers = tuple(self._kind(part) for part in parts)
        except (TypeError, ValueError):
            parts, numbers = (), ()
        if _has_other(parts, (str, int, self._kind)):
            numbers = ()
        if not numbers or self._count not in (None, len(numbers)):
            self.fail(f"`{value}` is not {self._wanted}", param, ctx)
        return numbers


def _parts(value: Any) -> Sequence[Any]:
    """What stands between commas; in the settings file one number needs no list."""
    parts: Sequence[Any] = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int | float) else value
    return parts


class Choice(click.Choice[str]):
    """Names; one that is mistyped is answered with the nearest.

    Args:
        choices: what is accepted.
        shown: what help and completion show; None shows all. The others are accepted, so that an error can say why they do not fit.
    """

    def __init__(self, choices: Sequence[str], shown: Sequence[str] | None = None) -> None:
        super().__init__(choices)
        self.shown = tuple(choices if shown is None else shown)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Reads the name."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as err:
            help_of = f"{ctx.command_path} --help" if ctx is not None else None
            raise BadInput(err.format_message(), hint=did_you_mean(str(value), self.shown, otherwise=help_of)) from err

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """What the help shows."""
        return super().get_metavar(param, ctx) if self.shown == self.choices else f"[{'|'.join(self.shown)}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What completion offers."""
        return [item for item in super().shell_complete(ctx, param, incomplete) if item.value in self.shown]


class Command(click.Command):
    """A command whose help shows the options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes them; `--help` comes last in the last group."""
        for group in GROUPS:
            params = [param for param in self.get_params(ctx) if getattr(param, "group", GROUPS[-1]) == group]
            records = [record for param in params if (record := param.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)
