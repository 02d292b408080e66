"""A report held to bounds. What it is about, and what of a bound's figure is missing, is said; nothing passes in silence.

*Undecided* is what more images, more rounds or another machine would decide. A figure that the report lacks fails: running the
same again would not bring it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from squeeze_export.core import require
from squeeze_export.gate.bounds import WORDS, Bounds, in_unit
from squeeze_export.gate.evidence import AT_THE_BOUND, LEVEL, more_needed
from squeeze_export.gate.paired import Decided, Paired, decide_agreement, decide_drop, paired
from squeeze_export.gate.results import Check, State
from squeeze_export.graph.quantized import FP32, SCHEMES
from squeeze_export.results import Interval, Latency, Measurement, Report

_MEMORY_FACTS = ("peak_memory_bytes", "arena_bytes")
_SHOWN = 3
"""Names in a message."""


@dataclass(frozen=True)
class Absent:
    """Why a row lacks the figure of a bound.

    Attributes:
        why: a sentence's rest: `it was not timed`.
        fails: whether this row should have it; else it is skipped, as long as another row has it.
    """

    why: str
    fails: bool = True


def _unless_run(row: Measurement, why: str) -> Absent:
    """A row that was not run at all, such as a compiler's source or product, has no figures of a run."""
    if row.estimate is not None:
        return Absent("a compiler's estimate: nothing here runs the file", False)
    return Absent(why) if row.runtime else Absent("it was not run", False)


def judged_rows(report: Report) -> tuple[Measurement, ...]:
    """The rows that bounds are about: all but the fp32 files, which are there to compare with; all if there are no others."""
    others = tuple(row for row in report.measurements if row.scheme != FP32.name)
    return others or report.measurements


def absolute_checks(report: Report, bounds: Bounds) -> tuple[Check, ...]:
    """Every row's state, and every bound on every row; `max-slowdown` is not among them, as it needs files timed beside these.

    Raises:
        NotInstalled: a bound on top-1, top-5, agreement or latency needs scipy.
    """
    rows = judged_rows(report)
    found = [check for row in rows for check in _state_checks(row)]
    sound = [row for row in rows if row.status == "ok"]
    for word, bound in bounds.given.items():
        if word == "max-steps-apart":
            found += _steps_checks(report, bound)
        elif word in _JUDGES:
            found += _bound_checks(word, bound, sound, report)
    return tuple(found)


def _state_checks(row: Measurement) -> list[Check]:
    """A row that failed fails; an integer file with floats inside does too."""
    label = row.label
    if row.status != "ok":
        return [Check("run", label, row.status, f"{row.status}: {row.reason or 'no reason given'}")]
    found = [Check("run", label, "passed", "measured" if row.runtime else "written")]
    scheme = SCHEMES.get(row.scheme)
    if row.audit is not None and scheme is not None and scheme.integer and not row.recipe.startswith("vendor"):
        faults = (*row.audit.violations, *row.audit.untold)
        message = f"is not the integer network it claims to be: {some(faults)}" if faults else "every convolution is in integers"
        if row.audit.kept_float and not faults:
            message = f"in integers, but for what was kept in float on request: {some(row.audit.kept_float)}"
        found.append(Check("integer", label, "failed" if faults else "passed", message))
    return found


def _bound_checks(word: str, bound: float, rows: Sequence[Measurement], report: Report) -> list[Check]:
    checks = []
    for row in rows:
        found = _JUDGES[word](row, bound, report)
        if isinstance(found, Absent):
            found = Check(word, row.label, "failed" if found.fails else "skipped", found.why, bound=bound)
        checks.append(replace(found, name=word, row=row.label, bound=bound, unit=WORDS[word].unit))
    if all(check.state == "skipped" for check in checks):
        message = "no row of the report has this figure" if rows else "the report has no row that was measured"
        checks.append(Check(word, "", "failed", message, bound=bound, unit=WORDS[word].unit))
    return checks


def _steps_checks(report: Report, bound: float) -> list[Check]:
    unit = WORDS["max-steps-apart"].unit
    if not report.differences:
        message = "the report compares no files of the same integers: export to several targets in one job, such as `all`"
        return [Check("max-steps-apart", "", "failed", message, bound=bound, unit=unit)]
    return [
        Check(
            "max-steps-apart",
            f"{each.first} and {each.second}",
            "passed" if each.largest_steps <= bound else "failed",
            f"logits up to {in_unit(each.largest_steps, unit)} apart{_allowed('max', bound, unit)}",
            value=each.largest_steps,
            bound=bound,
            unit=unit,
        )
        for each in report.differences
    ]


def _allowed(kind: str, bound: float, unit: str) -> str:
    return f", at {'least' if kind == 'min' else 'most'} {in_unit(bound, unit)} passes"


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


Judge = Callable[[Measurement, float, Report], "Check | Absent"]
"""A row, the bound and the report -> a check without its name and row, or why there is none."""


def drop_message(what: str, answers: Paired, found: Decided, bound: float, against: str) -> str:
    """`top-1 drop 0.42 pp [-1.20, 2.30] against the reference: 4 lost, 3 won of 240 images (McNemar p = 1); at most 1 pp ...`."""
    low, high = found.interval.low, found.interval.high
    return (
        f"{what} drop {in_unit(found.interval.value, 'pp')} [{low:.2f}, {high:.2f}] against {against}: {answers.lost:,} lost, "
        f"{answers.won:,} won of {answers.count:,} images (McNemar p = {found.changed_p:.2g}); "
        f"at most {in_unit(bound, 'pp')} passes"
    )


def drop_check(what: str, answers: Paired, bound: float, against: str) -> Check:
    """A check of a drop, without its name and row."""
    found = decide_drop(answers, bound)
    message = drop_message(what, answers, found, bound, against)
    return Check("", "", found.state, message, value=found.interval.value, interval=found.interval, needs=_images(found))


def _images(found: Decided) -> str:
    if found.state != "undecided":
        return ""
    return f"about {found.more_images:,} more images" if found.more_images is not None else AT_THE_BOUND


def _compared(row: Measurement) -> Absent | None:
    return _unless_run(row, "it was not validated") if row.accuracy is None else None


def _judge_drop(best: int) -> Judge:
    def judge(row: Measurement, bound: float, report: Report) -> Check | Absent:
        accuracy = row.accuracy
        if absent := _compared(row):
            return absent
        if accuracy is None or not accuracy.labelled_count or accuracy.lost is None or accuracy.won is None:
            return Absent("no image has a label, so no drop can be seen: was the label file or the folders' classes lost?")
        answers = Paired(accuracy.lost, accuracy.won, accuracy.labelled_count)
        if best > 1:
            if row.answers is None or report.images is None:
                return Absent("the report holds no answers of single images: it is of an older version")
            answers = paired(report.images.reference.label_rank.numbers(), row.answers.label_rank.numbers(), best)
        return drop_check(f"top-{best}", answers, bound, "the fp32 reference")

    return judge


def _judge_agreement(row: Measurement, bound: float, report: Report) -> Check | Absent:
    if (absent := _compared(row)) or row.accuracy is None:
        return absent or Absent("it was not validated")
    accuracy = row.accuracy
    if accuracy.error is not None:
        return Absent("a network with one output has no classes to agree on", False)
    same = round(accuracy.top1_agreement.value * accuracy.count)
    found = decide_agreement(same, accuracy.count, bound)
    shown = found.interval
    message = (
        f"{same:,} of {accuracy.count:,} images have the reference's class: {in_unit(shown.value, '%')} "
        f"[{shown.low:.2f}, {shown.high:.2f}]{_allowed('min', bound, '%')}"
    )
    return Check("", "", found.state, message, value=shown.value, interval=shown, needs=_images(found))


def _judge_plain(
    word: str, what: str, figure: Callable[[Measurement], float | Absent], more: Callable[[Measurement], str] = lambda row: ""
) -> Judge:
    """A figure without an interval."""

    def judge(row: Measurement, bound: float, report: Report) -> Check | Absent:
        value = figure(row)
        if isinstance(value, Absent):
            return value
        kind, unit = word[:3], WORDS[word].unit
        kept = value >= bound if kind == "min" else value <= bound  # a NaN keeps no bound
        message = f"{what} {in_unit(value, unit)}{_allowed(kind, bound, unit)}{more(row)}"
        return Check("", "", "passed" if kept else "failed", message, value=value)

    return judge


def _sqnr(row: Measurement) -> float | Absent:
    return _compared(row) or (row.accuracy.sqnr_db if row.accuracy else math.nan)


def _kl(row: Measurement) -> float | Absent:
    return _compared(row) or (row.accuracy.kl if row.accuracy else math.nan)


def _size(row: Measurement) -> float | Absent:
    return row.size_bytes or Absent("there is no file")


def _memory(row: Measurement) -> float | Absent:
    value = next((row.facts[name] for name in _MEMORY_FACTS if name in row.facts), None)
    return value if isinstance(value, int | float) else Absent("its runtime reports no memory", False)


def _fallbacks(row: Measurement) -> float | Absent:
    if row.placement is None:
        return _unless_run(row, "nothing tells where its operators ran")
    return len(row.placement.fallbacks)


def _fallback_names(row: Measurement) -> str:
    names = row.placement.fallbacks if row.placement is not None else ()
    return f": {some(names)}" if names else ""


def _cycles(row: Measurement) -> float | Absent:
    return row.estimate.cycles if row.estimate is not None else Absent("no compiler estimated it", False)


def _sram(row: Measurement) -> float | Absent:
    if row.estimate is None:
        return Absent("no compiler estimated it", False)
    return row.estimate.used_bytes.get("sram", 0)


def _timing(row: Measurement) -> Latency | Absent:
    if row.latency is not None:
        return row.latency
    if row.evidence != "measured":
        return Absent(f"{row.evidence}: its times say nothing about a device", False)
    return _unless_run(row, "it was not timed")


def _judge_percentile(percentile: int) -> Judge:
    def judge(row: Measurement, bound: float, report: Report) -> Check | Absent:
        latency = _timing(row)
        if isinstance(latency, Absent):
            return latency
        interval = percentile_interval(latency.samples_ns, percentile)
        count = len(latency.samples_ns)
        state: State = "passed" if interval.high <= bound else "failed" if interval.low > bound else "undecided"
        high = f"{interval.high:.3g}" if math.isfinite(interval.high) else "unknown"
        message = (
            f"p{percentile} {in_unit(interval.value, 'ms')} [{interval.low:.3g}, {high}] in {count:,} rounds"
            f"{_allowed('max', bound, 'ms')}"
        )
        needs = ""
        if state == "undecided":
            needs = _rounds(count, interval, bound, fewest_rounds(percentile))
        if state != "passed" and latency.busy:
            state, needs = "undecided", "a machine that nothing else keeps busy"
        return Check("", "", state, message, value=interval.value, interval=interval, needs=needs)

    return judge


def percentile_interval(samples_ns: Sequence[int], percentile: int) -> Interval:
    """A percentile in ms, with limits that hold with 95% confidence each; infinite where the samples are too few to have one.

    It takes the samples as independent; those of neighbouring rounds are a little alike, so it is a little too narrow.

    Source: G. J. Hahn, W. Q. Meeker, "Statistical Intervals" (1991), section 5.2: order statistics.

    Raises:
        NotInstalled: scipy is not.
    """
    stats = require("scipy.stats", "gate")
    ordered, count = np.sort(samples_ns) / 1e6, len(samples_ns)
    below, above = (int(stats.binom.ppf(level, count, percentile / 100)) for level in (LEVEL, 1 - LEVEL))
    low = float(ordered[below - 1]) if below >= 1 else 0.0
    high = float(ordered[above]) if above < count else math.inf
    return Interval(float(np.percentile(ordered, percentile)), low, high)


def fewest_rounds(percentile: int) -> int:
    """Samples with which a percentile has an upper limit at all."""
    return math.ceil(math.log(LEVEL) / math.log(percentile / 100))


def _rounds(count: int, interval: Interval, bound: float, fewest: int = 0) -> str:
    """How many rounds would probably decide, of which `count` were timed; `fewest` give an interval at all."""
    upper = interval.high - interval.value if math.isfinite(interval.high) else 0.0
    spread = max(interval.value - interval.low, upper) / NormalDist().inv_cdf(1 - LEVEL)
    more = more_needed(count, spread, interval.value - bound)
    return AT_THE_BOUND if more is None else f"about {max(fewest, count + more):,} rounds (--rounds)"


def _judge_speedup(row: Measurement, bound: float, report: Report) -> Check | Absent:
    latency = _timing(row)
    if isinstance(latency, Absent):
        return latency
    if latency.speedup is None:
        return Absent("no fp32 file of its network was timed in the same rounds")
    found = latency.speedup
    state: State = "passed" if found.low >= bound else "failed" if found.high < bound else "undecided"
    message = f"{in_unit(found.value, 'x')} [{found.low:.2f}, {found.high:.2f}] as fast as fp32{_allowed('min', bound, 'x')}"
    needs = _rounds(len(latency.samples_ns), found, bound) if state == "undecided" else ""
    return Check("", "", state, message, value=found.value, interval=found, needs=needs)


_JUDGES: Mapping[str, Judge] = {
    "max-top1-drop": _judge_drop(1),
    "max-top5-drop": _judge_drop(5),
    "min-agreement": _judge_agreement,
    "min-sqnr": _judge_plain("min-sqnr", "SQNR", _sqnr),
    "max-kl": _judge_plain("max-kl", "KL divergence", _kl),
    "max-size": _judge_plain("max-size", "size", _size),
    "max-p50": _judge_percentile(50),
    "max-p90": _judge_percentile(90),
    "max-p99": _judge_percentile(99),
    "min-speedup": _judge_speedup,
    "max-memory": _judge_plain("max-memory", "memory", _memory),
    "max-fallbacks": _judge_plain("max-fallbacks", "fallbacks:", _fallbacks, _fallback_names),
    "max-cycles": _judge_plain("max-cycles", "estimate", _cycles),
    "max-sram": _judge_plain("max-sram", "SRAM", _sram),
}
"""Word -> how a row is held to it."""
