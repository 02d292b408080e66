"""Images whose top-1 class differs between the integer network and the reference."""

from __future__ import annotations

import numpy as np

from squeeze_export.analyze.results import ClassChange
from squeeze_export.core import FloatArray


def class_change(reference: FloatArray, logits: FloatArray, file: str, label: int | None) -> ClassChange | None:
    """How an image changed its class; None if its top-1 class is the same. Of equal logits the lowest index wins, as elsewhere.

    Args:
        reference: (classes,) float32 logits of the float network, at least two.
        logits: (classes,) float32 logits of the integer network.
        file: the image.
        label: its class index, or None.
    """
    before, after = int(reference.argmax()), int(logits.argmax())
    if before == after:
        return None
    reference_margin, int8_margin = _margin(reference, before), _margin(logits, before)
    change = logits.astype(np.float64) - reference
    return ClassChange(
        file=file,
        label=label,
        reference_class=before,
        int8_class=after,
        reference_margin=reference_margin,
        int8_margin=int8_margin,
        margin_lost=reference_margin - int8_margin,
        reference_class_change=float(change[before]),
        int8_class_change=float(change[after]),
    )


def _margin(logits: FloatArray, index: int) -> float:
    """The logit of a class minus the largest other one."""
    return float(logits[index]) - float(np.delete(logits, index).max())
