"""Whether a chip will take a file, by the rules that its maker has written down, before any toolchain runs.

One chip is one module with a `Rulebook`, and one line in `registry.RULEBOOKS`. A rule is a function: it says what is wrong with an
operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from squeeze_export.errors import BadInput
from squeeze_export.formats.contents import Contents, FileOperator
from squeeze_export.registry import RULEBOOKS, entry_named

Severity = Literal["fall-back", "note"]
"""`fall-back`: the operator will not run on the chip in integers. `note`: it will, or it costs little, but there is better."""
Test: TypeAlias = Callable[[FileOperator], str | None]


@dataclass(frozen=True)
class Rule:
    """What the chip's maker asks of an operator.

    Attributes:
        broken: says what is wrong with an operator, in a few words with the value; None where nothing is.
        change: what to do about it.
        source: where the rule is written down.
        kinds: types of operators that it is about; empty for all.
        severity: what becomes of an operator that breaks it.
    """

    broken: Test
    change: str
    source: str
    kinds: frozenset[str] = frozenset()
    severity: Severity = "fall-back"


@dataclass(frozen=True)
class Rulebook:
    """A chip's rules.

    Attributes:
        chip: what it is called.
        targets: the formats whose files they are about.
        rules: of each operator the first that it breaks is told, and no other: one reason is enough.
    """

    chip: str
    targets: tuple[str, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Finding:
    """A broken rule.

    Attributes:
        operator: `type name`.
        severity: what becomes of the operator.
        problem: what is wrong with it.
        change: what to do about it.
        source: where the rule is written down.
    """

    operator: str
    severity: Severity
    problem: str
    change: str
    source: str


def rulebook_named(name: str) -> Rulebook:
    """Looks a chip's rules up.

    Raises:
        BadInput: there are none for it.
    """
    return cast(Rulebook, entry_named(name, RULEBOOKS, "rulebook", Rulebook))


def lint(contents: Contents, book: Rulebook) -> tuple[Finding, ...]:
    """Holds every operator of a file against a chip's rules.

    Args:
        contents: of a file of one of the book's formats.
        book: the rules.

    Returns:
        The first broken rule of each operator that breaks one, in the file's order.

    Raises:
        BadInput: the rules are about other formats.
    """
    if contents.target not in book.targets:
        raise BadInput(
            f"the rules of {book.chip} are about {' and '.join(book.targets)} files, this is `{contents.target}`",
            hint=f"it reads what `squeeze-export {book.targets[0]}` writes",
        )
    found = (_first(operator, book.rules) for operator in contents.operators)
    return tuple(finding for finding in found if finding is not None)


def _first(operator: FileOperator, rules: Sequence[Rule]) -> Finding | None:
    for rule in rules:
        problem = rule.broken(operator) if not rule.kinds or operator.kind in rule.kinds else None
        if problem is not None:
            return Finding(str(operator), rule.severity, problem, rule.change, rule.source)
    return None
