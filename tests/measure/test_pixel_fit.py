"""How well pixels fit, on planted logits and channels: what is told, what is not, and how few images it takes."""

import numpy as np
import pytest

from squeeze_export.measure.pixel_fit import HEATS, LEAST_GAIN, Seen, answers_fit, best_fitting, channels_fit, pixel_fit

COUNT, CLASSES = 32, 24
ALIKE = np.ones((COUNT, 8), np.float32)


def planted(*, own, common=1.0, noise=0.3, seed=0, count=COUNT, classes=CLASSES):
    """Logits in which each image's class stands out by `own` from what all images share and from noise."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, common, classes) + rng.normal(0, noise, (count, classes))
    logits[np.arange(count), np.arange(count) % classes] += own
    return logits.astype(np.float32)


def found(*candidates, channels=None):
    """What `best_fitting` says, and how many images each preprocessing saw; in the middle all are alike unless `channels` tells."""
    seen = [0] * len(candidates)
    channels = channels or [ALIKE] * len(candidates)

    def run(number, part):
        seen[number] += len(candidates[number][part])
        return Seen(candidates[number][part], channels[number][part])

    return best_fitting(run, len(candidates), COUNT, candidates[0].shape[1]), seen


def test_definite_answers_that_differ_fit_best():
    sharp, flat, alike = planted(own=6), planted(own=1), planted(own=1, common=4)
    assert answers_fit(sharp).mean() > answers_fit(flat).mean() > answers_fit(alike).mean()


@pytest.mark.parametrize("scale", [0.01, 100])
def test_the_scale_of_the_logits_says_nothing(scale):
    logits = planted(own=4)
    np.testing.assert_allclose(answers_fit(logits * np.float32(scale)), answers_fit(logits), rtol=1e-4)


def test_constant_logits_fit_worst_and_break_nothing():
    logits = planted(own=4)
    logits[3] = 7
    assert np.isfinite(answers_fit(logits)).all()
    assert answers_fit(logits).argmin() == 3
    assert (answers_fit(np.zeros((COUNT, CLASSES), np.float32)) < answers_fit(planted(own=1)).min()).all()


def test_the_better_one_is_named():
    answer, _ = found(planted(own=1), planted(own=2), planted(own=6), planted(own=3))
    number, gain = answer
    assert number == 2
    assert gain == pytest.approx((answers_fit(planted(own=6)) - answers_fit(planted(own=1))).mean())


def test_where_the_assumed_one_is_right_nothing_is_said_and_little_is_run():
    answer, seen = found(planted(own=6), planted(own=1), planted(own=0.5), planted(own=1, common=4))
    assert answer is None
    assert seen == [HEATS[0][0]] * 4


def test_a_gain_too_small_is_none():
    slightly = planted(own=6) + np.float32(0.02) * (planted(own=20) - planted(own=6))
    answer, seen = found(planted(own=6), slightly)
    assert 0 < (answers_fit(slightly) - answers_fit(planted(own=6))).mean() < LEAST_GAIN
    assert (answer, seen) == (None, [COUNT, COUNT])


def test_with_few_classes_the_gain_must_be_sure_too():
    """A mean that some images make and others unmake is clear with many classes, and is chance with few."""
    few = [planted(own=1, noise=1.5, classes=4, seed=seed) for seed in range(200)]
    pairs = [(answers_fit(other) - answers_fit(one)) for one, other in zip(few[::2], few[1::2], strict=True)]
    assert sum(found(one, other)[0] is not None for one, other in zip(few[::2], few[1::2], strict=True)) <= 1
    assert sum(difference.mean() > LEAST_GAIN for difference in pairs) > 20
    answer, _ = found(planted(own=0.5, classes=4), planted(own=9, classes=4))
    assert answer is not None


def test_of_two_classes_none_fits():
    assert found(planted(own=0.5, classes=2), planted(own=90, classes=2))[0] is None


def test_an_untrained_network_fits_nothing():
    answer, seen = found(planted(own=0, common=4), planted(own=0, common=1))
    assert (answer, seen) == (None, [COUNT, COUNT])


def test_what_is_not_finite_is_no_candidate():
    broken = np.full((COUNT, CLASSES), np.nan, np.float32)
    assert found(planted(own=1), broken, planted(own=6))[0][0] == 2
    assert found(broken, planted(own=6))[0] is None


def test_channels_fit_by_hand():
    means = np.array([[2, 2, 2, 2], [1, 0, 0, 0], [3, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(channels_fit(means), np.log([1, 1 / 4, 16 / 10 / 4, 1 / 4]))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_channels_says_nothing(scale):
    means = np.random.default_rng(0).uniform(0, 1, (COUNT, 8)).astype(np.float32)
    np.testing.assert_allclose(channels_fit(means * np.float32(scale)), channels_fit(means), rtol=1e-5)


def test_channels_tell_where_answers_do_not():
    same, few = planted(own=6), ALIKE * np.float32([1] * 6 + [0.1] * 2)
    gain = pixel_fit(Seen(same, ALIKE)) - pixel_fit(Seen(same, few))
    assert found(same, same, channels=[few, ALIKE])[0] == (1, pytest.approx(gain.mean()))
    assert found(same, same, channels=[ALIKE, few])[0] is None
    assert found(same, same, channels=[ALIKE, ALIKE])[0] is None  # negative control


def test_channels_that_are_not_finite_are_no_candidate():
    assert found(planted(own=1), planted(own=6), channels=[ALIKE, ALIKE * np.inf])[0] is None
