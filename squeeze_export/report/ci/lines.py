"""Plain lines, for logs and `grep`."""

from __future__ import annotations

from squeeze_export.report.ci.judged import Judged, about, counts, found, plain


def lines(judged: Judged) -> str:
    """A line for each check, `failed max-size net.int8.onnx, onnxruntime on cpu: 1.27 MB ...`, those that failed first, and the
    verdict as the last one.
    """
    result = judged.result
    checks = (
        f"{'cleared' if check.cleared else check.state} {plain(check.name)} {about(check)}: {found(check)}"
        for check in result.checks
    )
    assumptions = (f"note {plain(text)}" for text in result.assumptions)
    return "\n".join([*checks, *assumptions, f"{result.state}: {counts(result)}"]) + "\n"
