"""Whether int8 is worth it: compares int8 rows with the others of their runtime and device in latency, accuracy and size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from squeeze_export.graph.quantized import scheme_named
from squeeze_export.measure.statistics import bootstrap_ratio
from squeeze_export.results import Interval, Latency, Measurement, Outcome, Pace, Rival, Verdict

LEAST_GAIN = 1.05
"""A speed-up whose interval contains 1 and nothing above this counts as no gain. A choice, not a measurement."""
LEAST_ROUNDS = 20
"""With fewer samples the bootstrap interval is too narrow: with 2 rounds, one of two equally fast sessions is called faster in
almost every second run (a test simulates it)."""
MOST_ROUNDS = 10_000
"""The most that is ever recommended."""


def verdicts_of(rows: Sequence[Measurement], main: Mapping[str, str] | None = None) -> tuple[Verdict, ...]:
    """A verdict for each integer row that was timed in the same rounds as other rows.

    Rows are compared if they have the same checkpoint, target, runtime, device, batch, threads and number of rounds. Only measured
    latencies count, not those of an emulator or an estimate.

    Args:
        rows: of one report; sample i of every row comes from the same round.
        main: runtime -> the runtime that it is compared as; others are compared as themselves.

    Raises:
        BadInput: a row's scheme is not known.
    """
    groups: dict[tuple[object, ...], list[tuple[Measurement, Latency]]] = {}
    for row in rows:
        if row.status == "ok" and row.evidence == "measured" and row.latency is not None:
            runtime = (main or {}).get(row.runtime, row.runtime)
            same = (row.latency.batch, row.latency.threads, len(row.latency.samples_ns))
            key = (row.checkpoint_sha256, row.target, runtime, row.device, *same)
            groups.setdefault(key, []).append((row, row.latency))
    found = []
    for group in groups.values():
        others = [(row, latency) for row, latency in group if not scheme_named(row.scheme).integer]
        found += [_verdict(row, latency, others) for row, latency in group if others and scheme_named(row.scheme).integer]
    return tuple(found)


def pace_of(speedup: Interval) -> Pace:
    """What the interval of int8's speed-up shows, from its bounds rounded to hundredths, as a report prints them.

    Returns:
        `faster` or `slower` if the whole interval is above or below 1; `no gain` if it contains 1 but nothing above `LEAST_GAIN`;
        else `open`.
    """
    low, high = round(speedup.low, 2), round(speedup.high, 2)
    if low > 1:
        return "faster"
    if high < 1:
        return "slower"
    return "no gain" if high <= LEAST_GAIN else "open"


def rounds_needed(speedup: Interval, round_count: int) -> int | None:
    """About how many rounds decide an `open` interval: 1, 2 or 5 times a power of ten; None if this is above `MOST_ROUNDS`.

    An interval narrows with the square root of the rounds. It is decided once it no longer reaches from its value to 1 or to
    `LEAST_GAIN`, whichever is farther; half as many rounds again are added as a margin.
    """
    half = (speedup.high - speedup.low) / 2
    enough = max(speedup.value - 1, LEAST_GAIN - speedup.value)
    wanted = max(1.5 * round_count * (half / enough) ** 2, round_count + 1)
    if wanted > MOST_ROUNDS:
        return None
    power = int(10 ** math.floor(math.log10(wanted)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= wanted)


def loses(row: Measurement) -> bool:
    """Whether a loss of top-1 against the reference is shown: the interval, rounded to tenths of a point, lies below zero."""
    delta = row.accuracy.top1_delta_pp if row.accuracy is not None else None
    return delta is not None and round(delta.high, 1) < 0


Timed = tuple[Measurement, Latency]


def _verdict(int8: Measurement, latency: Latency, others: Sequence[Timed]) -> Verdict:
    round_count = len(latency.samples_ns)
    rivals = []
    for row, other in others:
        speedup = bootstrap_ratio(other.samples_ns, latency.samples_ns)
        rivals.append(Rival(row.name, speedup, pace_of(speedup) if round_count >= LEAST_ROUNDS else "open"))
    outcome, needed = _outcome(rivals, round_count)
    unbeaten = [timed for timed, rival in zip(others, rivals, strict=True) if rival.pace in ("slower", "no gain")]
    ship: Measurement | None = None
    otherwise: Measurement | None = None
    if outcome == "faster":
        known = [timed for timed in others if timed[0].loss_is_known]
        ship, otherwise = int8, _best(known) if loses(int8) else None
    elif outcome == "not faster":
        ship = _best(unbeaten) or (None if loses(int8) else int8) or _best(others)
    if ship is not None and not ship.loss_is_known:
        ship = None  # nobody can tell whether it keeps the reference's top-1
    return Verdict(
        int8.name,
        int8.device,
        outcome,
        tuple(rivals),
        ship.name if ship else None,
        otherwise.name if otherwise else None,
        round_count,
        needed,
    )


def _outcome(rivals: Sequence[Rival], round_count: int) -> tuple[Outcome, int | None]:
    """The outcome, and if it is `unknown` the rounds that would decide it."""
    if round_count < LEAST_ROUNDS:
        return "unknown", LEAST_ROUNDS
    if any(rival.pace in ("slower", "no gain") for rival in rivals):
        return "not faster", None
    needed = [rounds_needed(rival.speedup, round_count) for rival in rivals if rival.pace == "open"]
    if not needed:
        return "faster", None
    known = [count for count in needed if count is not None]
    return "unknown", max(known) if len(known) == len(needed) else None


def _best(timed: Sequence[Timed]) -> Measurement | None:
    """The smallest row that shows no loss and whose interval excludes that it is `LEAST_GAIN` times slower than the fastest."""
    sound = [(row, latency) for row, latency in timed if not loses(row)]
    if not sound:
        return None
    _, fastest = min(sound, key=lambda pair: pair[1].p50_ms)
    near = [pair for pair in sound if bootstrap_ratio(fastest.samples_ns, pair[1].samples_ns).low >= 1 / LEAST_GAIN]
    row, _ = min(near, key=lambda pair: (pair[0].size_bytes, pair[1].p50_ms))
    return row
