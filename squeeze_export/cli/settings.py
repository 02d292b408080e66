"""`squeeze-export.toml`: option defaults of a project, beaten by the environment and by the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from squeeze_export.errors import BadInput

FILE = Path("squeeze-export.toml")
MAX_BYTES = 1_000_000


def default_map(commands: list[str], path: Path = FILE) -> dict[str, dict[str, Any]]:
    """Reads the settings file of the current folder.

    Top-level keys are options of every command that has them, a table named after a command is for that command alone.

    Returns:
        command -> option -> default; empty where there is no file.

    Raises:
        BadInput: not TOML, too large, or a table that is no command.
    """
    if not path.is_file():
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"`{path}` is larger than {MAX_BYTES} bytes")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BadInput(f"`{path}` cannot be read: {err}", hint="see docs/cli.md for its form") from err
    shared = {_key(name): value for name, value in values.items() if not isinstance(value, dict)}
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    for name in tables:
        if name not in commands:
            raise BadInput(f"`{path}` has a table `[{name}]`, which is no command", hint=f"one of: {', '.join(commands)}")
    return {name: shared | {_key(k): v for k, v in tables.get(name, {}).items()} for name in commands}


def check_settings(defaults: dict[str, dict[str, Any]] | None, known: set[str], path: Path = FILE) -> None:
    """Refuses a key that no command has: a misspelt option must not be ignored in silence.

    Raises:
        BadInput: names the key.
    """
    for options in (defaults or {}).values():
        for key in options:
            if key not in known:
                raise BadInput(f"`{path}` sets `{key.replace('_', '-')}`, which is no option", hint="squeeze-export COMMAND --help")


def _key(name: str) -> str:
    return name.replace("-", "_")
