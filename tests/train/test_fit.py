"""The training loop on a problem small enough for a test."""

from itertools import islice

import numpy as np
import pytest

from squeeze_export.core import Preprocess
from squeeze_export.errors import BadInput
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.train.fit import Schedule, fit, shuffled, to_input

torch = pytest.importorskip("torch")

ARCH = Architecture("small", 8, 3, (Fire(4, 8, 8), Fire(4, 8, 8)), (0,), 3)
PREPROCESS = Preprocess(32, 32, "bilinear", "rgb", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))


def _coloured(count, seed):
    """Three classes: mostly red, mostly green, mostly blue."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 120, (count, 32, 32, 3), np.uint8)
    images[np.arange(count), :, :, labels] += 100
    return images, labels.astype(np.int64)


@pytest.fixture(scope="module")
def fitted():
    images, labels = _coloured(96, 0)
    told = []
    schedule = Schedule(steps=40, peak_lr=0.1, threads=1)
    result = fit(ARCH, shuffled(images, labels, batch=16, seed=0), PREPROCESS, schedule, progress=lambda *step: told.append(step))
    return result, told


def test_training_lowers_the_loss_and_learns(fitted):
    result, _ = fitted
    assert np.mean(result.losses[-5:]) < 0.5 * np.mean(result.losses[:5])
    images, labels = _coloured(60, 1)
    logits = FloatRunner(build_graph(ARCH, result.tensors, PREPROCESS))(images)
    assert np.mean(logits.argmax(1) == labels) > 0.9


def test_the_result_is_a_plain_network(fitted):
    result, _ = fitted
    assert {key: value.shape for key, value in result.tensors.items()} == tensor_shapes(ARCH)


def test_progress_hears_of_every_step(fitted):
    result, told = fitted
    assert told == [("train", step, 40) for step in range(1, 41)]
    assert len(result.losses) == 40


def test_the_same_seed_gives_the_same_tensors():
    images, labels = _coloured(32, 0)

    def run(seed):
        schedule = Schedule(steps=3, peak_lr=0.05, seed=seed, threads=1)
        return fit(ARCH, shuffled(images, labels, batch=8, seed=seed), PREPROCESS, schedule).tensors["features.0.weight"]

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


def test_a_run_continues_from_given_tensors(fitted):
    result, _ = fitted
    images, labels = _coloured(32, 2)
    schedule = Schedule(steps=2, peak_lr=1e-9, batch_norm=False, weight_decay=0.0, threads=1)
    batches = shuffled(images, labels, batch=16, seed=0)
    again = fit(ARCH, batches, PREPROCESS, schedule, start=result.tensors)
    for key, value in result.tensors.items():
        np.testing.assert_allclose(again.tensors[key], value, atol=1e-6)
    with pytest.raises(BadInput, match="normalisation"):
        fit(ARCH, batches, PREPROCESS, Schedule(steps=1), start=result.tensors)


def test_bfloat16_learns_too():
    images, labels = _coloured(64, 0)
    schedule = Schedule(steps=20, peak_lr=0.1, bfloat16=True, threads=1)
    losses = fit(ARCH, shuffled(images, labels, batch=16, seed=0), PREPROCESS, schedule).losses
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_shuffled_gives_every_image_once_a_round():
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1).repeat(3, axis=3)
    labels = np.arange(10, dtype=np.int64)
    seen = np.concatenate([batch[1] for batch in islice(shuffled(images, labels, batch=5, seed=4), 4)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    for batch_images, batch_labels in islice(shuffled(images, labels, batch=3, seed=4), 5):
        np.testing.assert_array_equal(batch_images[:, 0, 0, 0], batch_labels)


@pytest.mark.parametrize("batch", [0, 11])
def test_impossible_batches_are_refused(batch):
    with pytest.raises(BadInput, match=f"`{batch}`"):
        next(shuffled(np.zeros((10, 1, 1, 3), np.uint8), np.zeros(10, np.int64), batch=batch, seed=0))


def test_too_few_batches_are_refused():
    images, labels = _coloured(8, 0)
    with pytest.raises(BadInput, match="`1` batches"):
        fit(ARCH, [(images, labels)], PREPROCESS, Schedule(steps=2, peak_lr=0.01, threads=1))


def test_a_loss_that_explodes_is_refused():
    images, labels = _coloured(16, 0)
    schedule = Schedule(steps=200, peak_lr=1e20, batch_norm=False, threads=1)
    with pytest.raises(BadInput, match="loss"):
        fit(ARCH, shuffled(images, labels, batch=16, seed=0), PREPROCESS, schedule)


def test_to_input_normalises_and_orders_channels():
    pixels = np.array([[[[0, 100, 200]]]], np.uint8)
    by_hand = to_input(pixels, Preprocess(1, 1, "bilinear", "bgr", (0.0, 50.0, 100.0), (1.0, 2.0, 4.0)))
    assert by_hand.shape == (1, 3, 1, 1)
    assert by_hand.flatten().tolist() == [200.0, 25.0, -25.0]
