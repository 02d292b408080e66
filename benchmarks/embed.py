"""Copies the committed results into the pages that quote them: `python -m benchmarks.embed`. A test keeps them equal."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.recording import RESULTS
from squeeze_export.files import write_text

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- result: (\w+)(?:, rows with (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page that may quote a result."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def table_of(name: str, word: str | None) -> str:
    """The table and the machine's line of a result, without its heading; of its rows those that hold `word`, where one is given."""
    lines = (RESULTS / f"{name}.md").read_text(encoding="utf-8").split("\n", 2)[2].strip().splitlines()
    if word is None:
        return "\n".join(lines)
    first = next(number for number, line in enumerate(lines) if line.startswith("|---")) + 1
    kept = [line for line in lines[first:] if word in line or not line.startswith("|")]
    return "\n".join(lines[:first] + kept)


def embedded(text: str) -> str:
    """The page with every marked place filled from the results."""
    return MARKED.sub(lambda found: f"{found[1]}{table_of(found[2], found[3])}\n{found[4]}", text)


if __name__ == "__main__":
    for page in pages():
        write_text(page, embedded(page.read_text(encoding="utf-8")))
