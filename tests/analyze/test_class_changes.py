"""Images that change their class."""

from __future__ import annotations

import numpy as np

from squeeze_export.analyze.class_changes import class_change


def test_a_change_by_hand() -> None:
    reference = np.asarray([1.0, 3.0, 2.5], np.float32)
    assert class_change(reference, np.asarray([0.0, 2.0, 1.0], np.float32), "a", 1) is None
    change = class_change(reference, np.asarray([1.0, 2.0, 2.25], np.float32), "a.jpg", None)
    assert change is not None
    assert (change.reference_class, change.int8_class, change.label, change.file) == (1, 2, None, "a.jpg")
    assert (change.reference_margin, change.int8_margin, change.margin_lost) == (0.5, -0.25, 0.75)
    assert (change.reference_class_change, change.int8_class_change) == (-1.0, -0.25)


def test_of_equal_logits_the_lowest_index_wins() -> None:
    assert class_change(np.asarray([1.0, 2.0], np.float32), np.asarray([2.0, 2.0], np.float32), "a", 0) is not None
    assert class_change(np.asarray([2.0, 1.0], np.float32), np.asarray([2.0, 2.0], np.float32), "a", 0) is None
