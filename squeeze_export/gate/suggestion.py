"""Bounds that a report passes, as a commented table for a settings file: what was measured stands beside each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from squeeze_export.gate.bounds import in_unit
from squeeze_export.gate.checks import judged_rows
from squeeze_export.gate.paired import Paired, decide_agreement, decide_drop
from squeeze_export.results import Accuracy, Measurement, Report


def suggested_settings(report: Report, baseline: str) -> str:
    """The text of a `[gate]` table.

    Bounds on times stand there as comments: they are another machine's as soon as another one runs the gate.

    Args:
        report: that passes these bounds.
        baseline: the path of the baseline.

    Raises:
        NotInstalled: scipy is not.
    """
    rows = [row for row in judged_rows(report) if row.status == "ok"]
    lines = [
        "# Written by `squeeze-export gate REPORT.json --init`: bounds that this report passes. Edit them.",
        "[gate]",
        f'baseline = "{baseline}"  # made and renewed by: squeeze-export gate REPORT.json --update',
        *_accuracy_lines(rows),
        *_line("max-size", _worst(rows, lambda row: row.size_bytes), 1.01, 1000, "bytes", "the largest file"),
        *_line("max-fallbacks", _worst(rows, _fallbacks), 1, 1, "operators", "that run elsewhere than asked, or in float"),
        *_line("max-cycles", _worst(rows, _cycles), 1, 1, "cycles", "a compiler's estimate"),
        *_line("max-sram", _worst(rows, _sram), 1, 1, "bytes", "a compiler's estimate"),
        *_steps_line(report),
        *_time_lines(rows),
        '# undecided = "pass"  # exit code 0 instead of 6 where more images or rounds would decide; "fail": 5',
    ]
    return "\n".join(lines) + "\n"


def _worst(rows: Sequence[Measurement], figure: Callable[[Measurement], float | None]) -> float | None:
    return max((value for row in rows if (value := figure(row)) is not None), default=None)


def _fallbacks(row: Measurement) -> float | None:
    return len(row.placement.fallbacks) if row.placement is not None else None


def _cycles(row: Measurement) -> float | None:
    return row.estimate.cycles if row.estimate is not None else None


def _sram(row: Measurement) -> float | None:
    return row.estimate.used_bytes.get("sram") if row.estimate is not None else None


def _line(word: str, worst: float | None, factor: float, step: int, unit: str, what: str) -> list[str]:
    """`max-size = 917000  # the largest file: 907,539 bytes`."""
    if worst is None:
        return []
    return [f"{word} = {math.ceil(worst * factor / step) * step}  # {what}: {in_unit(worst, unit)}"]


def _accuracy_lines(rows: Sequence[Measurement]) -> list[str]:
    found: list[Accuracy] = [row.accuracy for row in rows if row.accuracy is not None and row.accuracy.error is None]
    if not found:
        return ["# max-top1-drop = 1.0  # pp; this report was not validated"]
    lines = []
    labelled = [a for a in found if a.labelled_count and a.lost is not None and a.won is not None]
    if labelled:
        drops = [decide_drop(Paired(a.lost or 0, a.won or 0, a.labelled_count), 0).interval for a in labelled]
        high, fewest = max(drop.high for drop in drops), min(a.labelled_count for a in labelled)
        lines.append(
            f"max-top1-drop = {min(100, max(0.5, math.ceil(2 * high + 1e-6) / 2)):g}  # pp; the largest drop is "
            f"{in_unit(max(drop.value for drop in drops), 'pp')}, and {fewest:,} images do not show that it is below {high:.2f}"
        )
    else:
        lines.append("# max-top1-drop = 1.0  # pp; this report's images have no labels")
    shares = [decide_agreement(round(a.top1_agreement.value * a.count), a.count, 0).interval for a in found]
    least, sure = min(share.value for share in shares), min(share.low for share in shares)
    bound = max(0, math.floor(2 * sure - 1e-6) / 2)
    lines.append(f"min-agreement = {bound:g}  # percent; the least is {in_unit(least, '%')}, at least {sure:.2f}")
    worst_db, worst_kl = min(a.sqnr_db for a in found), max(a.kl for a in found)
    if 0 <= worst_db < math.inf:
        lines.append(f"min-sqnr = {max(0, math.floor(worst_db - 1)):g}  # dB; the least is {in_unit(worst_db, 'dB')}")
    if math.isfinite(worst_kl):
        lines.append(f"max-kl = {float(f'{max(2 * worst_kl, 1e-6):.1e}'):g}  # nats; the largest is {worst_kl:.2g}")
    return lines


def _steps_line(report: Report) -> list[str]:
    worst = max((each.largest_steps for each in report.differences), default=None)
    if worst is None:
        return []
    return [f"max-steps-apart = {max(1, math.ceil(2 * worst)):g}  # between two targets' files: {in_unit(worst, 'steps')}"]


def _time_lines(rows: Sequence[Measurement]) -> list[str]:
    times = [row.latency for row in rows if row.latency is not None]
    if not times:
        return []
    speedups = [latency.speedup.low for latency in times if latency.speedup is not None]
    lines = [f"# max-p50 = {max(latency.p50_ms for latency in times) * 1.5:.2g}  # ms; on this machine alone"]
    if speedups:
        lines.append(
            f"# min-speedup = {max(0.0, math.floor(10 * min(speedups)) / 10):g}  # over fp32; other CPUs have other ratios"
        )
    return [*lines, "# max-slowdown = 5  # percent, with --base: files of an older build, timed in the same job"]
