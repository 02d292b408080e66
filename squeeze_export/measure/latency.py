"""Times sessions in interleaved rounds, and keeps every sample. The clock is a parameter."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from squeeze_export.core import Progress, silent
from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.measure.statistics import bootstrap_ratio
from squeeze_export.results import Latency

FEWEST_REPEATED = 10
"""With fewer rounds in each half nothing is said of how steady they are."""
_SPARE_CORE = 0.25
"""What a machine's own housekeeping may take of a core without disturbing."""


def measure_latency(
    sessions: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 10,
    rounds: int = 50,
    orders: Sequence[Sequence[int]] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Progress = silent,
) -> dict[str, tuple[int, ...]]:
    """Runs every session once per round, in an order that changes from round to round, and keeps every sample.

    So whatever slows the machine slows all sessions alike, and sample i of every session comes from the same round. All sessions
    warm up before the first sample. The garbage collector is off meanwhile, since its pauses belong to no session. Each session
    finds caches that the others have used, as in an application that does other work between two inferences, so the times are a
    little longer than in a loop over one session.

    Args:
        sessions: name -> one inference.
        warmup: inferences of each session before the first sample.
        rounds: at least 1.
        orders: of the sessions' places in `sessions`, one order for each round, from the first again after the last. An order
            may name a session several times. None: each once, `balanced_orders`.
        clock: nanoseconds, monotonic.
        progress: told after each round.

    Returns:
        name -> samples in ns, in the order in which they were taken.

    Raises:
        BadInput: `warmup` or `rounds` is out of range.
    """
    if warmup < 0 or rounds < 1:
        raise BadInput(f"`{warmup}` warm-up runs, `{rounds}` rounds: nothing to time", hint="rounds start at 1, the others at 0")
    samples: dict[str, list[int]] = {name: [] for name in sessions}
    if not samples:
        return {}
    for infer in sessions.values():
        for _ in range(warmup):
            infer()
    names = list(sessions)
    orders = orders or balanced_orders(len(names))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for done in range(rounds):
            for index in orders[done % len(orders)]:
                infer = sessions[names[index]]
                start_ns = clock()
                infer()
                samples[names[index]].append(clock() - start_ns)
            progress("timing", done + 1, rounds)
    finally:
        if collecting:
            gc.enable()
    return {name: tuple(values) for name, values in samples.items()}


def balanced_orders(count: int) -> list[tuple[int, ...]]:
    """Orders in which each of `count` sessions follows every other one equally often, and takes each place equally often.

    Source: E. J. Williams, "Experimental designs balanced for the estimation of residual effects of treatments", Australian
    Journal of Scientific Research A 2 (1949), 149-168: one Latin square if `count` is even, this and its mirror if it is odd.

    Returns:
        `count` or 2 * `count` permutations of 0 .. count - 1.
    """
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    square = [tuple((step + shift) % count for step in zigzag) for shift in range(count)]
    return square if count % 2 == 0 else square + [order[::-1] for order in square]


def latency_of(
    samples_ns: Sequence[int],
    *,
    warmup_count: int,
    batch: int,
    threads: int,
    baseline_ns: Sequence[int] | None = None,
    other_load: float | None = None,
    cores: int | None = None,
) -> Latency:
    """The latency of one session, from its samples.

    Source of the percentiles: type 7 of R. J. Hyndman, Y. Fan, "Sample quantiles in statistical packages", The American
    Statistician 50 (1996), 361-365.

    Args:
        samples_ns: of this session, at least one.
        warmup_count: inferences before the first sample.
        batch: images per inference.
        threads: intra-op threads.
        baseline_ns: samples of fp32 on the same runtime and device, from the same rounds; None if there are none.
        other_load: cores that other processes kept busy meanwhile; None if unknown.
        cores: that there are.

    Raises:
        ValueError: a baseline of other rounds.
    """
    p50_ms, p90_ms, p99_ms = (float(percentile) / 1e6 for percentile in np.percentile(samples_ns, (50, 90, 99)))
    half = len(samples_ns) // 2
    told = half >= FEWEST_REPEATED
    busy = told and other_load is not None and cores is not None and other_load + threads > cores + _SPARE_CORE
    return Latency(
        samples_ns=tuple(samples_ns),
        warmup_count=warmup_count,
        batch=batch,
        threads=threads,
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        speedup=None if baseline_ns is None else bootstrap_ratio(baseline_ns, samples_ns),
        repeat=bootstrap_ratio(samples_ns[:half], samples_ns[half : 2 * half]) if told else None,
        other_load=other_load,
        busy=busy,
    )


@contextmanager
def pinned(cpus: tuple[int, ...] | None) -> Iterator[None]:
    """Pins this thread, and every thread that it starts meanwhile, to the given CPUs; restores the old affinity afterwards.

    A runtime's worker threads inherit the affinity of the thread that starts them, so sessions must be *opened* inside.

    Args:
        cpus: logical CPU numbers; None pins nothing.

    Raises:
        BadInput: no CPU, or one that this process may not use or that does not exist.
        Unavailable: the operating system cannot pin (macOS, Windows).
    """
    if cpus is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise Unavailable("this operating system cannot pin threads to CPUs", hint="leave out --cpus")
    before = os.sched_getaffinity(0)
    listed = ", ".join(str(cpu) for cpu in sorted(before))
    # Linux silently drops the CPUs of a mask that do not exist, so each is checked here.
    wrong = [cpu for cpu in cpus if cpu not in before]
    if wrong or not cpus:
        named = f"cpu `{wrong[0]}` is not among" if wrong else "`()` names none of"
        raise BadInput(f"{named} the CPUs of this process", hint=f"choose from {listed}")
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
