"""`squeeze-export.toml`: option defaults of a project, overridden by the environment and the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from squeeze_export.errors import BadInput, did_you_mean

FILE = Path("squeeze-export.toml")
MAX_BYTES = 1_000_000

Options = Mapping[str, Mapping[str, str]]
"""Command -> option without its dashes -> name of the parameter."""


def default_map(known: Callable[[], Options], path: Path = FILE) -> dict[str, dict[str, Any]]:
    """Reads the settings file of the current folder.

    Top-level keys are options of every command that has them; a table named after a command is for that command alone.

    Args:
        known: gives the options of all commands; called only if there is a file.
        path: the file.

    Returns:
        command -> parameter -> default; empty without a file.

    Raises:
        BadInput: not TOML, too large, a table that is no command, or a key that is no option.
    """
    if not path.is_file():
        return {}
    values = _read(path)
    options = known()
    shared = {key: value for key, value in values.items() if not isinstance(value, dict)}
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    for name in tables:
        if name not in options:
            raise BadInput(f"`{path}` has a table `[{name}]`, which is no command", hint=did_you_mean(name, options))
        _check(tables[name], options[name], f"`{path}` sets `{{}}` in `[{name}]`, which is no option of that command")
    _check(shared, {key for names in options.values() for key in names}, f"`{path}` sets `{{}}`, which is no option")
    return {
        command: {
            parameter: chosen[key]
            for chosen in (shared, tables.get(command, {}))
            for key, parameter in names.items()
            if key in chosen
        }
        for command, names in options.items()
    }


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"`{path}` is larger than {MAX_BYTES} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BadInput(f"`{path}` cannot be read: {err}", hint="it is TOML, such as: threads = 2") from err


def _check(keys: Iterable[str], options: Iterable[str], message: str) -> None:
    names = sorted(options)
    for key in keys:
        if key not in names:
            raise BadInput(message.format(key), hint=did_you_mean(key.replace("_", "-"), names))
