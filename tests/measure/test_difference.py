"""How far two runs are apart, by hand."""

import numpy as np
import pytest

from squeeze_export.measure.difference import Gap, widened


def row(*values):
    return np.array([values], np.float32)


def test_a_gap_widens_batch_by_batch():
    gap = widened(Gap(), row(1, 2, 0), row(1, 2.5, 0))
    assert gap == Gap(1, 1, 0.5)
    gap = widened(gap, row(3, 2, 0), row(3, 3.25, 0))  # another class
    assert gap == Gap(2, 1, 1.25)
    assert widened(gap, row()[:, :0][:0], row()[:, :0][:0]) == gap


def test_of_equal_logits_the_first_is_the_top():
    assert widened(Gap(), row(1, 1), row(1, 0)).same_top1 == 1
    assert widened(Gap(), row(1, 1), row(0, 1)).same_top1 == 0


def test_outputs_of_other_shapes_are_a_mistake():
    with pytest.raises(ValueError):
        widened(Gap(), row(1, 2), row(1, 2, 3))
