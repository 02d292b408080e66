"""Programs that stand for something on a board."""

from __future__ import annotations

from pathlib import Path


def wrapper(folder: Path, name: str, script: str) -> str:
    """A program that stands for the board's Python."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)
