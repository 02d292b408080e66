"""What the docs tell to type: their pages, the blocks of code in them, and the commands in those."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "calibration/README.md", *ROOT.glob("docs/**/*.md")])
PROGRAM = "squeeze-export"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}\S.*\n)+")
_TYPED = re.compile(rf"(?:{PROGRAM}|python|make|pip|pytest) ")
_SUBSTITUTION = re.compile(r'^eval "\$\((.*)\)"')
_PUNCTUATION = {"|", ">", ">>", "<", "2>", "&&", "||", ";", "&"}


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        words: the program and its arguments, as far as the first pipe or redirection.
        environment: what is set before it.
        out: the file that stdout goes to; empty where it goes nowhere.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]
    out: str = ""

    @property
    def text(self) -> str:
        """The words, apart by one space."""
        return " ".join(self.words)


def name_of(page: Path) -> str:
    """`docs/cli.md`."""
    return page.relative_to(ROOT).as_posix()


def without_blocks(text: str) -> str:
    """A page's prose."""
    return _BLOCK.sub("", text)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [content for kind, content in _BLOCK.findall(text) if kind == language]


def commands(text: str) -> list[Command]:
    """Every command of a page's `sh` blocks, and of the indented blocks that hold some, in the order of the page."""
    found: list[tuple[int, str]] = [(m.start(), m[2]) for m in _BLOCK.finditer(text) if m[1] == "sh"]
    prose = _BLOCK.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)  # of the same length, so that places stay what they are
    for block in _INDENTED.finditer(prose):
        lines = [line.strip() for line in block[0].splitlines() if _TYPED.match(line.strip())]
        found += [(block.start(), "\n".join(line for line in lines if "[OPTIONS]" not in line))]
    return [command for _, script in sorted(found) for command in read_script(script)]


def read_script(script: str) -> Iterator[Command]:
    """The commands of a shell script of the plainest kind: one a line, with its environment, a pipe or a file behind it."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(_SUBSTITUTION.sub(r"\1", line.strip()), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        end = next((i for i, word in enumerate(words) if word in _PUNCTUATION), len(words))
        first = next((i for i, word in enumerate(words[:end]) if not re.match(r"[A-Z_]+=", word)), end)
        if first == end:
            continue
        environment = dict(word.split("=", 1) for word in words[:first])
        out = words[end + 1] if words[end : end + 1] == [">"] else ""
        yield Command(tuple(words[first:end]), environment, out)
