"""Whether int8 is worth it, in words, for the table, the Markdown and the page: one line a verdict."""

from __future__ import annotations

from squeeze_export.report.flips import row_name
from squeeze_export.report.wording import (
    delta_pp,
    delta_range,
    one_line,
    output_error,
    percent,
    percent_range,
    scheme,
    size,
    speedup,
    speedup_range,
)
from squeeze_export.results import Measurement, Report, Rival, RowName, Verdict

TITLE = "Is int8 worth it here?"
_LABELS = "--eval with a folder for each class"


def verdict_lines(report: Report) -> list[str]:
    """`litert on cpu: int8 is faster than fp32 (3.1x [3.0, 3.2]): ship int8 (top-1 +0.42 pp [-0.8, +1.8], no loss shown)`."""
    return [_line(verdict, report) for verdict in report.verdicts]


def outcome_lines(report: Report) -> list[tuple[str, str]]:
    """State (`passed`, `failed`, `undecided`, `skipped`) and sentence: what went wrong and what did not, for the head of a page."""
    rows = report.measurements
    lines = [
        ("failed", f"{row_name(row, rows)}: {one_line(row.reason) or 'no reason given'}") for row in rows if row.status == "failed"
    ]
    for audit, name in {row.artifact: (row.audit, row.artifact) for row in rows if row.audit is not None}.values():
        if audit.violations:
            more = f" and {len(audit.violations) - 1} more" if len(audit.violations) > 1 else ""
            lines.append(("failed", f"`{name}` is not the integer network that it claims to be: {audit.violations[0]}{more}"))
    lines += [
        ("undecided", f"{row_name(row, rows)}: {len(row.placement.fallbacks)} operators fell back")
        for row in rows
        if row.placement is not None and row.placement.fallbacks
    ]
    ran, skipped = (sum(row.status == status for row in rows) for status in ("ok", "skipped"))
    if skipped:
        lines.append(("skipped", f"{skipped} of {len(rows)} rows {'was' if skipped == 1 else 'were'} skipped"))
    if ran:
        lines.append(("passed", f"{ran} of {len(rows)} rows have their figures"))
    return lines


def verdict_note() -> str:
    """What the lines are based on, in one sentence."""
    return (
        "From the rows that were timed in the same rounds, never from emulated ones: the other row's median over int8's, 95% "
        "bootstrap interval; a loss of top-1 is shown where its interval is below zero, and what does not compute in float32 is "
        "recommended only where labels could have shown one"
    )


def _line(verdict: Verdict, report: Report) -> str:
    head = f"{one_line(verdict.int8.runtime)} on {one_line(verdict.device)}: "
    named = _name(verdict.int8, verdict, report)
    if verdict.outcome == "unknown":
        return f"{head}{verdict.round_count:,} rounds do not tell whether {named} is {_open(verdict, report)}: {_more(verdict)}"
    text = f"{head}{named} is {_paces(verdict, report)}: "
    int8 = _row(verdict.int8, report)
    unknown = _unknown(verdict, report)
    if unknown is not None:
        row, name = _row(unknown, report), _name(unknown, verdict, report)
        if row is not None and row.accuracy is not None and row.accuracy.error is not None:
            whose = "its" if unknown == verdict.int8 else f"{name}'s"
            return f"{text}whether {whose} error is small enough is yours to say{_brackets(_accuracy(row))}"
        it = "it" if unknown == verdict.int8 else name
        return f"{text}whether {it} loses top-1 is not known{_brackets(_accuracy(row))}, {_LABELS} tells"
    if verdict.ship is None:
        return f"{text}no row keeps the reference's top-1, so ship none of them"
    row, shipped = _row(verdict.ship, report), _name(verdict.ship, verdict, report)
    if verdict.ship == verdict.int8:
        return text + _ship_int8(verdict, report, shipped, row)
    return f"{text}ship {shipped}{_brackets(_accuracy(row), _sizes(row, int8, named))}"


def _unknown(verdict: Verdict, report: Report) -> RowName | None:
    """The file that would be shipped if it were known whether it loses top-1; None where this is known, or no reason."""

    def known(name: RowName) -> bool:
        row = _row(name, report)
        return name.scheme == "fp32" if row is None else row.loss_is_known

    if verdict.ship is not None:  # older reports ship what nobody could judge
        return None if known(verdict.ship) else verdict.ship
    unbeaten = [rival.row for rival in verdict.rivals if rival.pace in ("slower", "no gain")]
    return next((name for name in (*unbeaten, verdict.int8) if not known(name)), None)


def _ship_int8(verdict: Verdict, report: Report, shipped: str, row: Measurement | None) -> str:
    if verdict.outcome == "not faster":
        return f"ship {shipped}, the others that are no slower lose top-1{_brackets(_accuracy(row))}"
    delta = row.accuracy.top1_delta_pp if row is not None and row.accuracy is not None else None
    if delta is not None and (verdict.otherwise is not None or round(delta.high, 1) < 0):
        other = "" if verdict.otherwise is None else f", else {_name(verdict.otherwise, verdict, report)}"
        return f"ship {shipped} where a top-1 change of {delta_pp(delta)} {delta_range(delta)} is acceptable{other}"
    return f"ship {shipped}{_brackets(_accuracy(row))}"


def _paces(verdict: Verdict, report: Report) -> str:
    """`faster than a (...) but not than b (...)`."""
    faster, slower, level, unsettled = (_joined(verdict, report, pace) for pace in ("faster", "slower", "no gain", "open"))
    text = f"not faster than {slower}" if slower else ""
    if level:
        text += f"{' and ' if text else ''}not faster by more than 5% than {level}"
    if faster:
        text = f"faster than {faster}" + (f" but {text}" if text else "")
    return f"{text}, unsettled against {unsettled}" if unsettled else text


def _open(verdict: Verdict, report: Report) -> str:
    faster = _joined(verdict, report, "faster")
    return f"faster than {_joined(verdict, report, 'open')}" + (f"; it is faster than {faster}" if faster else "")


def _joined(verdict: Verdict, report: Report, pace: str) -> str:
    names = [_beside(rival, verdict, report) for rival in verdict.rivals if rival.pace == pace]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _beside(rival: Rival, verdict: Verdict, report: Report) -> str:
    return f"{_name(rival.row, verdict, report)} ({speedup(rival.speedup)} {speedup_range(rival.speedup)})"


def _more(verdict: Verdict) -> str:
    if verdict.rounds_needed is None:
        return "a quieter machine may"
    return f"--rounds {verdict.rounds_needed} may"


def _accuracy(row: Measurement | None) -> str:
    """What is known of a row's accuracy, as far as its intervals tell."""
    accuracy = row.accuracy if row is not None else None
    if accuracy is None:
        return "accuracy not measured here"
    if accuracy.error is not None:
        return output_error(accuracy.error)
    if accuracy.top1_delta_pp is not None:
        return f"top-1 {delta_pp(accuracy.top1_delta_pp)} {delta_range(accuracy.top1_delta_pp)}, no loss shown"
    agreement = accuracy.top1_agreement
    return f"agreement {percent(agreement.value)} {percent_range(agreement)}, no labels to show a loss of top-1"


def _sizes(row: Measurement | None, int8: Measurement | None, named: str) -> str:
    if row is None or int8 is None or int8.size_bytes >= row.size_bytes:
        return ""
    return f"{named} is smaller, {size(int8.size_bytes)} against {size(row.size_bytes)}"


def _brackets(*parts: str) -> str:
    kept = "; ".join(part for part in parts if part)
    return f" ({kept})" if kept else ""


def _row(name: RowName, report: Report) -> Measurement | None:
    """The row of that name; None if the report has none, which a report from elsewhere may."""
    return next((row for row in report.measurements if row.name == name), None)


def _name(name: RowName, verdict: Verdict, report: Report) -> str:
    """`int8`, `fp32 on openvino-bf16`; with its file if another row of the report would have the same name."""
    row = _row(name, report)
    word = scheme(row) if row is not None else name.scheme
    alike = {other.artifact for other in report.measurements if scheme(other) == word and other.runtime == name.runtime}
    where = f" on {name.runtime}" if name.runtime != verdict.int8.runtime else ""
    file = f" `{name.artifact}`" if len(alike | {name.artifact}) > 1 else ""
    return one_line(f"{word}{file}{where}")
