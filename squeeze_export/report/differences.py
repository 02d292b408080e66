"""The cross-target table in words, for the table, the Markdown and the page."""

from __future__ import annotations

from collections.abc import Sequence

from squeeze_export.report.wording import NOTHING, one_line, percent
from squeeze_export.results import Difference

HEADER = ("the same integers in", "and in", "logits apart", "agreement", "first layer apart")
TITLE = "The same integers, file by file"


def difference_rows(differences: Sequence[Difference]) -> list[tuple[str, str, str, str, str]]:
    """One row a pair, in the columns of `HEADER`."""
    return [
        (one_line(d.first), one_line(d.second), steps(d.largest_steps), percent(d.top1_agreement), _layer(d)) for d in differences
    ]


def difference_note(differences: Sequence[Difference]) -> str:
    """What the columns mean, in one sentence."""
    counts = " or ".join(f"{count:,}" for count in sorted({d.count for d in differences}))
    return (
        f"{counts} images; apart: the largest difference of a logit, in steps of the last convolution's scale; first layer: the "
        "first that makes of the same inputs something more than one step away from the exact integer run, on one image"
    )


def steps(value: float) -> str:
    """`0`, `0.01 steps`, `1.3 steps`, `12 steps`; what float32 sums leave, below a thousandth, is 0."""
    if value < 0.001:
        return "0"
    return f"{value:.2f} steps" if value < 9.995 else f"{value:.0f} steps"


def _layer(difference: Difference) -> str:
    if difference.first_layer is None:
        return NOTHING
    return one_line(difference.first_layer) or "none"
