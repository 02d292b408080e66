"""Comparing logits: one example by hand for each figure, scipy for the logarithms, batches against the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats

from squeeze_export.errors import BadInput, Refused
from squeeze_export.measure.accuracy import UNLABELLED, Tally, accuracy_of, compare, near_chance, tally
from squeeze_export.measure.statistics import paired_difference, wilson
from squeeze_export.results import sqnr_db


def logits(*rows):
    return np.array(rows, dtype=np.float32)


def test_by_hand():
    # Image by image: same and right; lost; won; both wrong, and without a label.
    reference = logits([3, 1, 0], [3, 1, 0], [3, 1, 0], [0, 2, 1])
    output = logits([4, 1, 0], [1, 3, 0], [1, 3, 0], [0, 2, 1])
    labels = np.array([0, 0, 1, UNLABELLED])
    accuracy = compare(reference, output, labels)
    assert accuracy.count == 4
    assert accuracy.top1_agreement == wilson(2, 4)
    assert accuracy.top5_agreement == 1.0  # three classes: the best five are all of them
    # Signal: three times 9 + 1, and 4 + 1; noise: 1, twice 4 + 4.
    assert accuracy.sqnr_db == pytest.approx(10 * math.log10(35 / 17))
    assert accuracy.labelled_count == 3
    assert (accuracy.lost, accuracy.won) == (1, 1)
    assert (accuracy.top1, accuracy.reference_top1) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (accuracy.top5, accuracy.reference_top5) == (1.0, 1.0)
    expected = paired_difference(1, 1, 3)
    assert accuracy.top1_delta_pp is not None
    assert accuracy.top1_delta_pp.value == 0
    assert accuracy.top1_delta_pp.high == pytest.approx(100 * expected.high)


def test_top5_overlap_by_hand():
    # Best five of the reference: 0 to 4. Of the artifact: 1 to 5. Four in common.
    reference = logits([9, 8, 7, 6, 5, 4, 0])
    output = logits([1, 8, 7, 6, 5, 4, 0])
    accuracy = compare(reference, output, np.array([5]))
    assert accuracy.top5_agreement == pytest.approx(4 / 5)
    assert (accuracy.reference_top5, accuracy.top5) == (0.0, 1.0)


def test_ties_go_to_the_lowest_index():
    accuracy = compare(logits([1, 5, 5, 0]), logits([2, 7, 7, 7]), np.array([1]))
    assert (accuracy.top1_agreement.value, accuracy.top1, accuracy.reference_top1) == (1.0, 1.0, 1.0)
    # The sixth of six equal classes is not among the five best.
    assert compare(logits([1] * 6), logits([1] * 6), np.array([5])).top5 == 0.0


def test_identical_outputs():
    output = np.random.default_rng(0).standard_normal((5, 10)).astype(np.float32)
    accuracy = compare(output, output.copy())
    assert accuracy.sqnr_db == math.inf
    assert accuracy.kl == 0.0
    assert accuracy.top1_agreement.value == accuracy.top5_agreement == 1.0
    assert (accuracy.labelled_count, accuracy.top1, accuracy.top1_delta_pp, accuracy.lost) == (0, None, None, None)


def test_kl_equals_scipy_and_survives_large_logits():
    generator = np.random.default_rng(1)
    reference = (300 * generator.standard_normal((6, 20))).astype(np.float32)
    output = (reference + generator.standard_normal((6, 20))).astype(np.float32)
    wide_reference, wide_output = reference.astype(np.float64), output.astype(np.float64)
    weight = special.softmax(wide_reference, axis=1)
    terms = weight * (special.log_softmax(wide_reference, axis=1) - special.log_softmax(wide_output, axis=1))
    assert compare(reference, output).kl == pytest.approx(terms.sum() / 6)


def test_kl_by_hand():
    # softmax([0, 0]) is (1/2, 1/2); softmax([ln 3, 0]) is (3/4, 1/4).
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert compare(logits([0, 0]), logits([math.log(3), 0])).kl == pytest.approx(expected, rel=1e-6)


def test_probabilities_are_compared_with_the_references_softmax():
    reference = logits([math.log(3), 0])
    accuracy = compare(reference, logits([0.5, 0.5]), ending="softmax")
    # Reference (3/4, 1/4), artifact (1/2, 1/2): signal 10/16, noise 2/16.
    assert accuracy.sqnr_db == pytest.approx(10 * math.log10(5), rel=1e-6)
    assert accuracy.kl == pytest.approx(stats.entropy([0.75, 0.25], [0.5, 0.5]), rel=1e-6)
    assert accuracy.top1_agreement.value == 1.0


def test_a_probability_of_exactly_zero_keeps_kl_finite():
    assert math.isfinite(compare(logits([1, 0]), logits([1, 0]), ending="softmax").kl)
    assert math.isfinite(compare(logits([1, 0]), logits([1, 0]), ending="sigmoid").kl)


def test_scores_are_compared_with_the_references_sigmoid():
    reference = logits([math.log(3), 0])
    accuracy = compare(reference, logits([0.5, 0.5]), ending="sigmoid")
    # Reference (3/4, 1/2), artifact (1/2, 1/2): signal 13/16, noise 1/16. The second class is the same on both sides.
    assert accuracy.sqnr_db == pytest.approx(10 * math.log10(13), rel=1e-6)
    assert accuracy.kl == pytest.approx(stats.entropy([0.75, 0.25], [0.5, 0.5]), rel=1e-6)
    assert accuracy.top1_agreement.value == 1.0
    exact = compare(logits([800, -800]), logits([1, 0]), ending="sigmoid")
    assert (exact.sqnr_db, exact.kl) == (math.inf, 0)


def test_nothing_against_something():
    assert compare(logits([0, 0]), logits([1, 0])).sqnr_db == -math.inf


finite = st.floats(-50, 50, width=32)


@given(
    st.integers(1, 9).flatmap(
        lambda count: st.tuples(
            arrays(np.float32, (count, 7), elements=finite),
            arrays(np.float32, (count, 7), elements=finite),
            arrays(np.int64, count, elements=st.integers(-1, 6)),
            st.integers(0, count),
        )
    )
)
def test_batches_add_up_to_the_whole(drawn):
    reference, output, labels, cut = drawn
    whole = compare(reference, output, labels)
    sums = Tally()
    for part in (slice(0, cut), slice(cut, None)):
        if len(labels[part]):
            sums = tally(sums, reference[part], output[part], labels[part])
    parts = accuracy_of(sums)
    assert (parts.count, parts.labelled_count, parts.lost, parts.won) == (
        whole.count,
        whole.labelled_count,
        whole.lost,
        whole.won,
    )
    assert (parts.top1_agreement, parts.top1, parts.top5) == (whole.top1_agreement, whole.top1, whole.top5)
    assert parts.kl == pytest.approx(whole.kl, abs=1e-9)
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db, abs=1e-9)
    assert whole.kl >= 0
    if whole.top1 is not None and whole.reference_top1 is not None and whole.top1_delta_pp is not None:
        assert whole.top1_delta_pp.value == pytest.approx(100 * (whole.top1 - whole.reference_top1))
        assert np.mean(np.argmax(output[labels >= 0], axis=1) == labels[labels >= 0]) == whole.top1


def test_no_image():
    with pytest.raises(BadInput, match="no image"):
        accuracy_of(Tally())


def test_shapes_that_differ():
    with pytest.raises(BadInput, match=r"`\(1, 3\)`"):
        compare(logits([1, 2]), logits([1, 2, 3]))
    with pytest.raises(BadInput, match="labels of shape"):
        compare(logits([1, 2]), logits([1, 2]), np.array([0, 1]))
    with pytest.raises(BadInput, match="`3` classes after batches of `2`"):
        tally(tally(Tally(), logits([1, 2]), logits([1, 2])), logits([1, 2, 3]), logits([1, 2, 3]))


@pytest.mark.parametrize("label", [2, -2])
def test_label_of_no_class(label):
    with pytest.raises(BadInput, match=f"`{label}` names no class"):
        compare(logits([1, 2]), logits([1, 2]), np.array([label]))


def test_outputs_that_are_not_finite():
    with pytest.raises(Refused, match="`1` of 2 images"):
        compare(logits([1, 2], [1, 2]), logits([1, math.nan], [1, 2]))
    with pytest.raises(BadInput, match="reference"):
        compare(logits([math.inf, 2]), logits([1, 2]))


@pytest.mark.parametrize(
    ("accuracy", "class_count", "count", "near"),
    [
        (0.0, 1000, 9, True),
        (0.0, 1000, 8, False),  # too few to tell
        (0.003, 1000, 50000, True),  # above chance for certain, and still plainly wrong
        (0.1, 1000, 500, False),  # a poor network, not a broken input
        (0.58, 1000, 20, False),
        (0.1, 10, 40, True),
        (0.3, 10, 40, False),
        (0.5, 2, 100, True),
        (0.6, 2, 100, False),
        (1.0, 1, 100, False),
        (0.0, 10, 0, False),
    ],
)
def test_near_chance(accuracy, class_count, count, near):
    assert near_chance(accuracy, class_count, count) is near


def test_sqnr_by_hand():
    assert sqnr_db(1000, 1) == pytest.approx(30)
    assert sqnr_db(5, 0) == sqnr_db(0, 0) == math.inf
    assert sqnr_db(0, 1) == -math.inf


def test_one_output_has_an_error_and_no_classes():
    """Its top-1 class is always the reference's, so the agreement of 100% says nothing; labels neither."""
    reference, output = logits([1], [2], [3], [6]), logits([1.5], [2], [2], [6])
    found = compare(reference, output, np.array([0, 0, 0, 0]))
    assert found.top1_agreement.value == 1
    assert (found.labelled_count, found.top1) == (0, None)
    assert found.error is not None
    assert found.error.mean == pytest.approx(1.5 / 4)
    assert found.error.p95 == pytest.approx(np.percentile([0.5, 0, 1, 0], 95))
    assert found.error.correlation == pytest.approx(stats.pearsonr([1, 2, 3, 6], [1.5, 2, 2, 6]).statistic)
    assert found.error.spread == pytest.approx(np.std([1, 2, 3, 6]))
    halves = tally(tally(Tally(), reference[:2], output[:2]), reference[2:], output[2:])
    assert accuracy_of(halves).error == found.error
    assert compare(logits([1, 2]), logits([1, 2])).error is None  # negative control


def test_a_constant_output_has_no_correlation():
    assert compare(logits([1], [2]), logits([3], [3])).error.correlation is None


def test_a_constant_reference_is_noticed():
    same = logits([3, 1, 0], [3, 1, 0])
    assert not compare(same, same).reference_varies
    assert compare(same, same).reference_class_count == 1
    other = compare(logits([3, 1, 0], [3, 2, 0]), same)
    assert (other.reference_varies, other.reference_class_count) == (True, 1)
    assert compare(logits([3, 1, 0], [1, 3, 0]), same).reference_class_count == 2
    assert not accuracy_of(tally(tally(Tally(), same, same), same, same)).reference_varies
    assert accuracy_of(tally(tally(Tally(), same, same), logits([3, 2, 0]), same[:1])).reference_varies
    assert compare(same[:1], same[:1]).reference_varies  # one image tells nothing
