"""`squeeze-export.toml`, or `[tool.squeeze-export]` of `pyproject.toml`: a project's defaults of options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from squeeze_export.errors import BadInput, did_you_mean

FILE = Path("squeeze-export.toml")
PROJECT = Path("pyproject.toml")
MAX_BYTES = 1_000_000
_TOOL = "squeeze-export"

Options = Mapping[str, Mapping[str, str]]
"""Command -> option without its dashes -> name of the parameter."""


def default_map(
    known: Callable[[], Options], path: Path = FILE, project: Path = PROJECT, *, tell: Callable[[str], None] = lambda text: None
) -> dict[str, dict[str, Any]]:
    """Reads the settings of the current folder.

    Top-level keys are options of every command that has them; a table named after a command is for that command alone.

    Args:
        known: gives the options of all commands; called only if there are settings.
        path: the settings file.
        project: `pyproject.toml`, whose `[tool.squeeze-export]` counts where there is no settings file.
        tell: told that both are there.

    Returns:
        command -> parameter -> default; empty without settings.

    Raises:
        BadInput: not TOML, too large, a table that is no command, or a key that is no option.
    """
    table = _project_table(project)
    if path.is_file():
        if table is not None:
            tell(f"`{path}` counts: `[tool.{_TOOL}]` of `{project}` is not read")
        return _defaults(_read(path), known(), f"`{path}`", "")
    return {} if table is None else _defaults(table, known(), f"`{project}`", f"tool.{_TOOL}.")


def _defaults(values: Mapping[str, Any], options: Options, where: str, prefix: str) -> dict[str, dict[str, Any]]:
    shared = {key: value for key, value in values.items() if not isinstance(value, dict)}
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    for name in tables:
        if name not in options:
            raise BadInput(f"{where} has a table `[{prefix}{name}]`, which is no command", hint=did_you_mean(name, options))
        _check(tables[name], options[name], f"{where} sets `{{}}` in `[{prefix}{name}]`, which is no option of that command")
    within = f" in `[{prefix[:-1]}]`" if prefix else ""
    _check(shared, {key for names in options.values() for key in names}, f"{where} sets `{{}}`{within}, which is no option")
    return {
        command: {
            parameter: chosen[key]
            for chosen in (shared, tables.get(command, {}))
            for key, parameter in names.items()
            if key in chosen
        }
        for command, names in options.items()
    }


def _project_table(path: Path) -> dict[str, Any] | None:
    """`[tool.squeeze-export]`; None if there is none. A file that does not even name this program is not parsed."""
    try:
        mine = path.is_file() and _TOOL.encode() in path.read_bytes()
    except OSError:
        return None  # it is another program's, until it says otherwise
    tools = _read(path).get("tool", {}) if mine else {}
    table = tools.get(_TOOL) if isinstance(tools, dict) else None
    if table is not None and not isinstance(table, dict):
        raise BadInput(f"`{path}` has `tool.{_TOOL}`, which is no table", hint=f"[tool.{_TOOL}]")
    return table


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
        raise BadInput(
            f"`{path}` cannot be read: {err}", hint='it is TOML: numbers as in threads = 2, words in quotes as in max-size = "5MB"'
        ) from err


def _check(keys: Iterable[str], options: Iterable[str], message: str) -> None:
    names = sorted(options)
    for key in keys:
        if key not in names:
            raise BadInput(message.format(key), hint=did_you_mean(key.replace("_", "-"), names))
