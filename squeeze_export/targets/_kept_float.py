"""Layers that a file says were kept in float on request: how its own metadata say it, for the audits."""

from __future__ import annotations

import json

KEPT_FLOAT_KEY = "squeeze_export.kept_float"
"""In every format's metadata: a JSON list of the convolutions' names, as the graph has them."""
MAX_CHARACTERS = 100_000


def declared_float(text: str | None) -> tuple[str, ...]:
    """The names in a file's entry; none where there is no entry, or one that cannot be read. It excuses nothing then.

    Args:
        text: of the entry, a stranger's perhaps.
    """
    if text is None or len(text) > MAX_CHARACTERS:
        return ()
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
