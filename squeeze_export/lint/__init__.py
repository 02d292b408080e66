"""Whether a chip supports a file, by the rules in its vendor's documentation, before any toolchain runs.

A chip is one module with a `Rulebook`, and one line in `registry.RULEBOOKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from squeeze_export.errors import BadInput
from squeeze_export.formats.contents import Contents, FileOperator
from squeeze_export.registry import RULEBOOKS, entry_named

Severity = Literal["fall-back", "wrong", "note"]
"""`fall-back`: the operator does not run on the chip. `wrong`: it runs, and others like it were seen to give wrong numbers.
`note`: it runs, or costs little, but could be better."""
Test: TypeAlias = Callable[[FileOperator], str | None]


@dataclass(frozen=True)
class Rule:
    """A requirement on operators.

    Attributes:
        broken: operator -> what is wrong with it, in a few words with the value, or None.
        change: how to fix it.
        source: where the vendor documents the rule.
        kinds: the kinds of operators that it applies to; empty for all.
        severity: what happens to an operator that breaks it.
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
        chip: its name.
        targets: the formats of the files that the rules apply to.
        rules: in order; an operator is reported once, with the first rule that it breaks.
    """

    chip: str
    targets: tuple[str, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Finding:
    """A broken rule.

    Attributes:
        operator: its kind and name.
        severity: what happens to the operator.
        problem: what is wrong with it.
        change: how to fix it.
        source: where the vendor documents the rule.
    """

    operator: str
    severity: Severity
    problem: str
    change: str
    source: str


def rulebook_named(name: str) -> Rulebook:
    """Looks a chip's rules up.

    Raises:
        BadInput: there are none for this chip.
    """
    return cast(Rulebook, entry_named(name, RULEBOOKS, "rulebook", Rulebook))


def lint(contents: Contents, book: Rulebook) -> tuple[Finding, ...]:
    """Checks every operator of a file against a chip's rules.

    Returns:
        The first broken rule of each operator that breaks one, in the file's order.

    Raises:
        BadInput: the rules apply to other formats.
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
