"""What each image was answered, packed as reports hold it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from squeeze_export.measure.accuracy import Records
from squeeze_export.results import Answers, PackedNumbers, PackedText

MOST_NAMES = 100_000
"""Of more images the report holds hashes and answers, but no names."""
_BEST = 5


def packed_answers(answers: Records) -> Answers:
    """Packs (N,) records with the fields of `accuracy.ANSWER`."""
    return Answers(packed(answers["top1"]), packed(np.minimum(answers["label_rank"], _BEST)))


def packed(numbers: np.ndarray[tuple[int], np.dtype[np.integer]]) -> PackedNumbers:
    """Packs (N,) integers."""
    return PackedNumbers.of(numbers.astype(np.int64))


def packed_names(texts: Sequence[str]) -> PackedText | None:
    """Packs names; None of none, and of too many."""
    return PackedText.of(texts) if 0 < len(texts) <= MOST_NAMES else None
