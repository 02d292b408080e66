"""How often the gate is wrong: simulated runs of its own decisions, beside a threshold on one number.

Answers are drawn from a multinomial distribution; times are drawn from real ones of this machine, which `gate_noise` recorded,
with the candidate's multiplied by the slow-down. `python -m benchmarks.gate_errors` takes some minutes.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks import gate_noise
from benchmarks.recording import write
from squeeze_export.gate.paired import Paired, decide_agreement, drop_state, more_images
from squeeze_export.gate.timing import ROUNDS, Rounds, decide_slowdown

RUNS = 2000
MOST_FALSE, LEAST_FOUND = 0.05, 0.90
MAX_DROP_PP, MIN_AGREEMENT, MAX_SLOWDOWN = 1.0, 95.0, 5.0
FOLLOWED = 200
"""Undecided runs that get what they ask for."""
FEWEST_FOLLOWED = 40
"""Of fewer no share is told."""


@dataclass(frozen=True)
class Case:
    """One truth, and what the gate and a threshold made of it.

    Attributes:
        what: was measured, and on how much.
        bound: of it.
        truth: in words.
        broken: whether the truth breaks the bound.
        promised: whether the rate of this case is promised: false alarms at most 5%, found at least 90%.
        failed: share of runs.
        undecided: likewise.
        passed: likewise.
        naive_failed: share of runs in which the threshold fails.
        then_decided: of undecided runs that got as much more as they asked for, the share that was decided; None of too few.
    """

    what: str
    bound: str
    truth: str
    broken: bool
    promised: bool
    failed: float
    undecided: float
    passed: float
    naive_failed: float
    then_decided: float | None

    @property
    def wrong(self) -> bool:
        """Whether a promise is broken."""
        return self.failed < LEAST_FOUND if self.broken and self.promised else not self.broken and self.failed > MOST_FALSE


def main() -> None:
    """Runs every case and writes the results; ends with an error where a promise does not hold."""
    cases = [*answer_cases(), *agreement_cases(), *timing_cases()]
    header = ("measured", "bound", "truth", "failed", "undecided", "passed", "decided with what it asks for", "a threshold fails")
    write(
        "gate_errors",
        "How often the gate is wrong",
        [
            f"Simulated: {RUNS:,} runs a row. `changed`: images that are right in one network only. A threshold: one number "
            "against yesterday's, the same bound; of times, yesterday is another run on the idle machine."
        ],
        header,
        [_row(case) for case in cases],
        [asdict(case) for case in cases],
    )
    wrong = [f"{case.what}, {case.truth}: {case.failed:.1%} failed" for case in cases if case.wrong]
    if wrong:
        sys.exit("\n".join(wrong))


def answer_cases() -> list[Case]:
    """A drop of top-1."""
    truths = {0.0: "nothing lost", MAX_DROP_PP: "a drop of 1 pp, just allowed", MAX_DROP_PP + 1: "a drop of 2 pp"}
    shares = {0.0: (0.02, 0.04), MAX_DROP_PP: (0.02, 0.04), MAX_DROP_PP + 1: (0.03, 0.04, 0.05)}
    return [
        _answer_case(count, changed, drop_pp, truths[drop_pp])
        for count in (500, 5000)
        for drop_pp, changes in shares.items()
        for changed in changes
    ]


def _answer_case(count: int, changed: float, drop_pp: float, truth: str) -> Case:
    generator = np.random.default_rng([count, int(1000 * changed), int(10 * drop_pp)])
    lose, win = (changed + drop_pp / 100) / 2, (changed - drop_pp / 100) / 2

    def drawn(images: int) -> Paired:
        lost, won, _ = (int(number) for number in generator.multinomial(images, [lose, win, 1 - changed]))
        return Paired(lost, won, images)

    def followed(first: Paired) -> bool | None:
        more = more_images(first, MAX_DROP_PP)
        if more is None:
            return None
        extra = drawn(more)
        both = Paired(first.lost + extra.lost, first.won + extra.won, first.count + extra.count)
        return drop_state(both, MAX_DROP_PP) != "undecided"

    found = [(answers := drawn(count), drop_state(answers, MAX_DROP_PP)) for _ in range(RUNS)]
    naive = sum(100 * (answers.lost - answers.won) > MAX_DROP_PP * count for answers, _ in found)
    broken = drop_pp > MAX_DROP_PP
    return _case(
        f"top-1, {count:,} images, {changed:.0%} changed",
        f"drop of at most {MAX_DROP_PP:g} pp",
        truth,
        broken,
        broken and count >= 5000,
        [state for _, state in found],
        naive,
        [followed(answers) for answers, state in found if state == "undecided"][:FOLLOWED],
    )


def agreement_cases() -> list[Case]:
    """Agreement with the reference."""
    truths = {MIN_AGREEMENT + 2: "97% agree", MIN_AGREEMENT: "95% agree, just allowed", MIN_AGREEMENT - 1: "94% agree"}
    return [_agreement_case(count, percent, truth) for count in (500, 5000) for percent, truth in truths.items()]


def _agreement_case(count: int, percent: float, truth: str) -> Case:
    generator = np.random.default_rng([count, int(percent)])

    def followed(same: int) -> bool | None:
        more = decide_agreement(same, count, MIN_AGREEMENT).more_images
        if more is None:
            return None
        extra = int(generator.binomial(more, percent / 100))
        return decide_agreement(same + extra, count + more, MIN_AGREEMENT).state != "undecided"

    numbers = [int(same) for same in generator.binomial(count, percent / 100, RUNS)]
    states = [decide_agreement(same, count, MIN_AGREEMENT).state for same in numbers]
    broken = percent < MIN_AGREEMENT
    return _case(
        f"agreement, {count:,} images",
        f"at least {MIN_AGREEMENT:g}%",
        truth,
        broken,
        broken and count >= 5000,
        states,
        sum(100 * same < MIN_AGREEMENT * count for same in numbers),
        [followed(same) for same, state in zip(numbers, states, strict=True) if state == "undecided"][:FOLLOWED],
    )


def timing_cases() -> list[Case]:
    """A slow-down, on every recorded condition of the machine."""
    truths = {0.0: "the same file", MAX_SLOWDOWN: "5% slower, just allowed", 8.0: "8% slower", 15.0: "15% slower"}
    recordings = gate_noise.read()
    yesterday = recordings["idle"]
    return [
        timing_case(name, recording, yesterday, percent, truth)
        for name, recording in recordings.items()
        for percent, truth in truths.items()
    ]


class Machine:
    """Gives rounds as they were recorded, with the candidate slowed down.

    Every run takes another opening, another place in it, and other roles for the three sessions, which were of one file. Rounds
    that are asked for next come from the opening that was recorded next.
    """

    def __init__(self, recording: gate_noise.Recording, slowdown: float, generator: np.random.Generator) -> None:
        self._times, self._slowdown, self._generator = recording.times(), slowdown, generator
        self.next_run()

    def next_run(self) -> None:
        """Another run."""
        openings, rounds = self._times.shape[:2]
        self._opening, self._start = self._generator.integers(openings), self._generator.integers(rounds)
        self._roles = self._generator.permutation(3)

    def measure(self, rounds: int) -> Rounds:
        """This many fresh rounds of this run."""
        openings, recorded = self._times.shape[:2]
        taken = np.arange(self._start, self._start + rounds)
        times = self._times[(self._opening + taken // recorded) % openings, taken % recorded]  # (R, 3, 2)
        self._opening = (self._opening + 1 + (self._start + rounds) // recorded) % openings
        base, candidate, control = (times[:, role, :, None] for role in self._roles)
        return Rounds(base, (candidate * (1 + self._slowdown / 100)).astype(np.int64), control)


def timing_case(name: str, recording: gate_noise.Recording, yesterday: gate_noise.Recording, percent: float, truth: str) -> Case:
    """One slow-down on one recording."""
    generator = np.random.default_rng([len(name), int(10 * percent)])
    today, before = Machine(recording, percent, generator), Machine(yesterday, 0, generator)
    states, naive, followed = [], 0, list[bool | None]()
    for _ in range(RUNS):
        today.next_run()
        before.next_run()
        found = decide_slowdown(today.measure, MAX_SLOWDOWN, rounds=ROUNDS)
        states.append(found.state)
        if found.more_rounds is not None and len(followed) < FOLLOWED:
            enough = min(ROUNDS + found.more_rounds, recording.rounds * recording.openings)
            followed.append(decide_slowdown(today.measure, MAX_SLOWDOWN, rounds=enough).state != "undecided")
        stored, seen = np.median(before.measure(ROUNDS).base), np.median(today.measure(ROUNDS).candidate)
        naive += bool(seen > stored * (1 + MAX_SLOWDOWN / 100))
    broken = percent > MAX_SLOWDOWN
    bound = f"at most {MAX_SLOWDOWN:g}% slower"
    return _case(f"time, {ROUNDS} rounds, {name}", bound, truth, broken, broken, states, naive, followed)


def _case(
    what: str,
    bound: str,
    truth: str,
    broken: bool,
    promised: bool,
    states: list[Any],
    naive: int,
    followed: list[bool | None],
) -> Case:
    shares = Counter(states)
    known = [decided for decided in followed if decided is not None]
    return Case(
        what,
        bound,
        truth,
        broken,
        promised,
        shares["failed"] / RUNS,
        shares["undecided"] / RUNS,
        shares["passed"] / RUNS,
        naive / RUNS,
        sum(known) / len(known) if len(known) >= FEWEST_FOLLOWED else None,
    )


def _row(case: Case) -> tuple[str, ...]:
    then = "" if case.then_decided is None else f"{case.then_decided:.0%}"
    shares = (f"{share:.1%}" for share in (case.failed, case.undecided, case.passed))
    return (case.what, case.bound, case.truth, *shares, then, f"{case.naive_failed:.1%}")


if __name__ == "__main__":
    main()
