"""How a file or a value is shown in a message: on one line, in backticks, whatever bytes it holds."""

from __future__ import annotations

from pathlib import Path

_SHOWN_LENGTH = 160


def shown(value: object) -> str:
    """The value in backticks, safe to print.

    File names come from strangers: a line break, an escape sequence or an undecodable byte in one would tear the message, the
    terminal or the JSON report.

    Returns:
        one line; unprintable characters are escaped as Python writes them, long values lose their middle.
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))
    if len(text) > _SHOWN_LENGTH:
        text = f"{text[: _SHOWN_LENGTH // 2]}...{text[-_SHOWN_LENGTH // 2 :]}"
    return f"`{text}`"


def shown_file(file: Path, root: Path) -> str:
    """The file in backticks, relative to `root` where it lies inside, with forward slashes."""
    return shown(file.relative_to(root).as_posix() if file.is_relative_to(root) else file)
