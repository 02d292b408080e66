"""Which of a file's float operators its kept convolutions account for: the part of an audit that is the same in every format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from squeeze_export.graph.quantized import MIXED_SCHEMES


@dataclass(frozen=True)
class Step:
    """An operator, as far as its floats go.

    Attributes:
        reads: what tells its float operands apart from all other tensors, constants included.
        makes: likewise of its float results.
        convolution: the name, in the file, of a convolution of which every operand and result is a float, its weights and bias
            constants; empty for all else.
        passing: whether it multiplies nothing and hands floats on.
        border: whether it does nothing but bring integers to floats, or back.
    """

    reads: tuple[Hashable, ...]
    makes: tuple[Hashable, ...]
    convolution: str = ""
    passing: bool = False
    border: bool = False


@dataclass(frozen=True)
class Kept:
    """What a declaration accounts for.

    Attributes:
        names: the declared convolutions that are in the file and compute in float.
        wrong: the other declared names.
        convolutions: places of the former among the steps.
        operators: theirs, and those of the operators that multiply nothing and are in float because of them.
    """

    names: tuple[str, ...]
    wrong: tuple[str, ...]
    convolutions: frozenset[int]
    operators: frozenset[int]

    @property
    def violations(self) -> tuple[str, ...]:
        """What is wrong with the declaration."""
        return tuple(f"the file says that `{name}` was kept in float, which is no convolution in float here" for name in self.wrong)


def kept_operators(steps: Sequence[Step], declared: Sequence[str], scheme: str, spelt: Callable[[str], str] = str) -> Kept:
    """Judges a declaration.

    A declared name stands for one float convolution, and no two for the same; a name that several convolutions have stands for
    none. What multiplies nothing is in float because of a kept convolution where floats alone join the two: it makes the other's
    input or reads its result, or does so to an operator that is in float for the same reason. A border ends the way: what else
    reads the same integers in float has no such reason.

    Args:
        steps: the file's operators, in any order.
        declared: names of convolutions as the graph has them.
        scheme: that the file says it is of, or nothing; one that keeps no layer in float leaves every name without meaning.
        spelt: a name as the format spells it.
    """
    named = Counter(step.convolution for step in steps)
    places = {step.convolution: place for place, step in enumerate(steps) if step.convolution and named[step.convolution] == 1}
    allowed = declared if scheme in ("", *MIXED_SCHEMES) else ()
    found = {name: places.pop(spelt(name)) for name in dict.fromkeys(allowed) if spelt(name) in places}
    wrong = tuple(name for name in dict.fromkeys(declared) if name not in found)
    convolutions = frozenset(found.values())
    return Kept(tuple(found), wrong, convolutions, _joined(steps, convolutions))


def _joined(steps: Sequence[Step], convolutions: frozenset[int]) -> frozenset[int]:
    """Places of convolutions and of what floats alone join to them, borders included."""
    makers: dict[Hashable, list[int]] = {}
    readers: dict[Hashable, list[int]] = {}
    for place, step in enumerate(steps):
        for tensor in step.makes if step.passing or step.border else ():
            makers.setdefault(tensor, []).append(place)
        for tensor in step.reads if step.passing or step.border else ():
            readers.setdefault(tensor, []).append(place)
    found = set(convolutions)
    waiting = list(convolutions)
    while waiting:
        step = steps[waiting.pop()]
        if step.border:
            continue
        beside = [place for tensor in step.reads for place in makers.get(tensor, ())]
        beside += [place for tensor in step.makes for place in readers.get(tensor, ())]
        new = set(beside) - found
        found |= new
        waiting += new
    return frozenset(found)
