"""Training a table's integers: what runs forward is what ships, the loss falls, and nothing but weights and biases moves."""

import dataclasses

import numpy as np
import pytest

from squeeze_export.core import Preprocess
from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.table import read_table, table_bytes
from squeeze_export.graph.torch_network import torch_network
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.quant.recipes import quantize
from squeeze_export.train.qat import QatSchedule, augmented, is_better, train_integers

torch = pytest.importorskip("torch")

from squeeze_export.graph import trainable as fake  # noqa: E402  (after the skip)

PREPROCESS = Preprocess(32, 32, "bilinear", "rgb", (127.5, 127.5, 127.5), (64.0, 64.0, 64.0))
CLASS_COUNT = 3


def _graph(bypass="none"):
    """An untrained SqueezeNet of two Fire modules, 32 px, 3 classes."""
    arch = Architecture("squeezenet_custom", 8, 3, (Fire(4, 8, 8), Fire(4, 8, 8, bypass)), (0,), CLASS_COUNT)
    rng = np.random.default_rng(0)
    tensors = {
        key: rng.normal(scale=np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1, size=shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }
    return build_graph(arch, tensors, PREPROCESS)


def _coloured(count, seed):
    """Three classes: mostly red, mostly green, mostly blue."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASS_COUNT, count)
    images = rng.integers(0, 120, (count, 32, 32, 3), np.uint8)
    images[np.arange(count), :, :, labels] += 100
    return images, labels.astype(np.int64)


def _table(graph):
    return quantize(graph, _coloured(20, 1)[0], FloatRunner(graph), INT8)


def _limits(quantized, limit=127):
    return {conv.name: limit for conv in quantized.convs}


def _run(quantized, shadows, images):
    with torch.no_grad():
        return fake.integer_logits(quantized, shadows, fake.to_tensor(images)).numpy()


@pytest.fixture(scope="module")
def graph():
    return _graph()


@pytest.fixture(scope="module")
def start(graph):
    return _table(graph)


SCHEDULE = QatSchedule(epochs=4, batch=30, reach=30.0, distillation=0.0)


@pytest.fixture(scope="module")
def trained(graph, start):
    told = []
    images, labels = _coloured(300, 0)
    found = train_integers(start, graph, images, labels, SCHEDULE, limits=_limits(start, 100), progress=lambda *s: told.append(s))
    return found, told


@pytest.mark.parametrize("bypass", ["none", "simple", "complex"])
def test_what_runs_forward_is_the_integer_run(bypass):
    graph = _graph(bypass)
    start = _table(graph)
    assert any(q.zero_point for q in start.tensors.values()) == (bypass == "complex")
    shadows = fake.shadows_of(start, _limits(start))
    images = _coloured(6, 3)[0]
    np.testing.assert_allclose(_run(start, shadows, images), IntegerRunner(start)(images), atol=1e-5)

    rng = np.random.default_rng(0)
    for shadow in shadows.values():  # anywhere that training may lead
        shadow.weight.data += torch.from_numpy(rng.normal(0, 2, shadow.weight.shape).astype(np.float32))
        shadow.shift.data += torch.from_numpy(rng.normal(0, 2, shadow.shift.shape).astype(np.float32))
    moved = fake.integers_of(start, shadows)
    logits = _run(start, shadows, images)
    np.testing.assert_allclose(logits, IntegerRunner(moved)(images), atol=1e-5)
    assert np.abs(logits - IntegerRunner(start)(images)).max() > 0.01


def test_the_float_run_is_the_reference():
    for bypass in ("none", "complex"):
        graph = _graph(bypass)
        images = _coloured(4, 3)[0]
        with torch.no_grad():
            logits = torch_network(graph)(fake.to_tensor(images)).numpy()
        np.testing.assert_allclose(logits, FloatRunner(graph)(images), atol=1e-5)


def test_rounding_passes_the_gradient_and_clamping_stops_it():
    values = torch.tensor([-0.4, 0.5, 1.5, 254.9, 255.6], requires_grad=True)
    rounded = fake._rescale()(values, 0.0, 0.0)
    assert rounded.tolist() == [0.0, 0.0, 2.0, 255.0, 255.0]
    rounded.sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    signed = torch.tensor([-131.0, -2.5, 200.0], requires_grad=True)
    rounded = fake._rescale()(signed, 130.0, 0.0)
    assert rounded.tolist() == [0.0, 128.0, 255.0]
    rounded.sum().backward()
    assert signed.grad.tolist() == [0.0, 1.0, 0.0]


def test_no_weight_leaves_its_limit(start):
    small = dataclasses.replace(start.convs[0], weight=(start.convs[0].weight // 4).astype(np.int8))
    table = dataclasses.replace(start, nodes=(small, *start.nodes[1:]))
    shadows = fake.shadows_of(table, _limits(table, 64))
    for shadow in shadows.values():
        shadow.weight.data[:, 0] += 1000
        shadow.weight.data[:, 1:] -= 1000
    first, second, *_ = fake.integers_of(table, shadows).convs
    assert (first.weight.min(), first.weight.max()) == (-64, 64)
    largest = int(np.abs(start.convs[1].weight).max())  # a start beyond the limit keeps what it has
    assert (second.weight.min(), second.weight.max()) == (-largest, largest)
    assert largest > 64


def test_the_loss_falls(trained):
    found, _ = trained
    assert found.losses[-1] < 0.8 * found.losses[0]
    assert found.best_epoch > 0
    assert found.held_out[found.best_epoch].loss < 0.95 * found.held_out[0].loss
    assert found.held_out_count == 30


def test_only_weights_and_biases_move(trained, start, tmp_path):
    quantized = trained[0].quantized
    assert quantized.tensors == start.tensors
    moved = 0
    for before, after in zip(start.convs, quantized.convs, strict=True):
        assert (after.weight.dtype, after.bias.dtype) == (np.int8, np.int32)
        np.testing.assert_array_equal(after.weight_scale, before.weight_scale)
        moved += int((after.weight != before.weight).sum() + (after.bias != before.bias).sum())
        assert np.abs(after.weight).max() <= max(100, np.abs(before.weight).max())
    assert moved
    (tmp_path / "net.table").write_bytes(table_bytes(quantized))
    assert read_table(tmp_path / "net.table").sha256 == quantized.sha256


def test_the_trained_integers_are_those_that_were_measured(trained, graph):
    """Measured in torch while training, and here by the integer run on the table."""
    found, _ = trained
    images, labels = _coloured(300, 0)
    held = np.random.default_rng(SCHEDULE.seed).permutation(300)[:30]
    logits = IntegerRunner(found.quantized)(images[held])
    measured = found.held_out[found.best_epoch]
    assert measured.top1 == pytest.approx((logits.argmax(1) == labels[held]).mean())
    assert measured.agreement == pytest.approx((logits.argmax(1) == FloatRunner(graph)(images[held]).argmax(1)).mean())


def test_progress_hears_of_every_update(trained):
    updates = 4 * 9  # 270 images in batches of 30
    assert trained[1] == [("training", update, updates) for update in range(1, updates + 1)]


def test_a_spoilt_table_is_mended(graph, start):
    """Integers moved at random are worse; trained against the reference alone they come nearer to it again."""
    rng = np.random.default_rng(0)
    spoilt = tuple(
        dataclasses.replace(node, weight=np.clip(node.weight + rng.integers(-40, 41, node.weight.shape), -127, 127).astype(np.int8))
        if node in start.convs
        else node
        for node in start.nodes
    )
    spoilt = dataclasses.replace(start, nodes=spoilt)
    images, labels = _coloured(100, 0)
    schedule = QatSchedule(epochs=4, batch=10, reach=10.0, distillation=1.0)
    found = train_integers(spoilt, graph, images, labels, schedule, limits=_limits(start))
    fresh = _coloured(30, 5)[0]
    expected = FloatRunner(graph)(fresh)
    errors = [np.square(IntegerRunner(table)(fresh) - expected).mean() for table in (start, spoilt, found.quantized)]
    assert errors[0] < errors[2] < 0.7 * errors[1]


def test_training_that_does_harm_is_thrown_away(graph, start):
    images, labels = _coloured(100, 0)
    found = train_integers(
        start, graph, images, labels, QatSchedule(epochs=1, batch=30, reach=900.0, distillation=1.0), limits=_limits(start)
    )
    assert found.best_epoch == 0
    assert found.held_out[1].loss > found.held_out[0].loss
    assert found.quantized is start


def test_an_epoch_must_be_better_by_more_than_luck():
    than = np.array([0.3, 0.1, 0.4, 0.2])
    assert is_better(than - 0.01, than)  # every image a little: certain
    assert not is_better(than - [0.5, 0.0, 0.0, 0.0], than)  # one image alone
    assert not is_better(than, than)
    assert not is_better(than + 0.01, than)
    gains = np.array([1.0, 2.0, 3.0])  # mean 2, standard error 1 / sqrt(3)
    assert is_better(-gains, np.zeros(3))
    assert not is_better(-gains + 0.9, np.zeros(3))  # 1.1 is below 2 / sqrt(3)


def test_the_same_seed_gives_the_same_integers(graph, start):
    images, labels = _coloured(100, 0)
    threads = torch.get_num_threads()

    def run(seed):
        schedule = QatSchedule(epochs=1, batch=20, reach=3.0, distillation=0.0, shift_px=2, flip=True, seed=seed)
        return train_integers(start, graph, images, labels, schedule, limits=_limits(start))

    first, second, other = run(1), run(1), run(2)
    assert first.quantized.sha256 == second.quantized.sha256
    assert first.losses == second.losses != other.losses
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_images_are_moved_and_mirrored():
    image = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
    many = np.repeat(image, 200, axis=0)
    plain = augmented(many, QatSchedule(), np.random.default_rng(0))
    np.testing.assert_array_equal(plain, many)
    mirrored = augmented(many, QatSchedule(flip=True), np.random.default_rng(0))
    assert {tuple(found.ravel()) for found in mirrored} == {(0, 1, 2, 3), (1, 0, 3, 2)}
    moved = augmented(many, QatSchedule(shift_px=1), np.random.default_rng(0))
    rows, columns = ((0, 0), (0, 1), (1, 1)), ((0, 0), (0, 1), (1, 1))  # of down and right by 1, 0 and -1, the edges repeated
    assert {tuple(found.ravel()) for found in moved} == {
        tuple(2 * r + c for r in row for c in column) for row in rows for column in columns
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "the epochs `0` of the training is outside 1 to 1000"),
        ({"batch": 0}, "the batch `0`"),
        ({"reach": 0.0}, "the reach `0.0`"),
        ({"reach": float("nan")}, "the reach `nan`"),
        ({"distillation": 1.5}, "the distillation `1.5`"),
        ({"shift_px": -1}, "the shift `-1`"),
    ],
)
def test_a_schedule_out_of_range(changes, message, graph, start):
    images, labels = _coloured(100, 0)
    with pytest.raises(BadInput, match=message):
        train_integers(start, graph, images, labels, QatSchedule(**changes), limits=_limits(start))


def test_images_that_cannot_be_trained_on(graph, start):
    images, labels = _coloured(100, 0)

    def run(table, pixels, classes):
        train_integers(table, graph, pixels, classes, QatSchedule(), limits=_limits(start))

    with pytest.raises(BadInput, match="`99` training images are too few"):
        run(start, images[:99], labels[:99])
    with pytest.raises(BadInput, match="`100` labels from `1` to `3` for 100 images of 3 classes"):
        run(start, images, labels + 1)
    with pytest.raises(BadInput, match="`99` labels"):
        run(start, images, labels[:99])
    with pytest.raises(BadInput, match="for the scheme `int8`, not `fp32`"):
        run(dataclasses.replace(start, scheme=FP32), images, labels)


def test_without_torch(graph, start, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    images, labels = _coloured(100, 0)
    with pytest.raises(Unavailable, match="`torch` is not installed") as caught:
        train_integers(start, graph, images, labels, QatSchedule(), limits=_limits(start))
    assert caught.value.hint == "pip install 'squeeze-export[torch]'"
