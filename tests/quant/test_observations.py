"""What one pass over the images keeps: ranges by image and channel, patches as the readers see them, the same for every seed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import CAFFE
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import GlobalAveragePool, Graph
from squeeze_export.graph.run import FloatRunner, weight_matrix
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.quant.observations import PATCH_COUNT, Observation, observe, observed_tensors
from tests.contract.conftest import net

COUNT = 5


@cache
def network() -> Graph:
    arch = Architecture("small", 4, 3, (Fire(2, 3, 5, "complex"), Fire(3, 4, 4, "simple")), (0,), 6, 1)
    rng = np.random.default_rng(0)
    tensors = {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in tensor_shapes(arch).items()}
    return build_graph(arch, tensors, replace(CAFFE, crop_px=40))


def images() -> Any:
    return np.random.default_rng(1).integers(0, 256, (COUNT, 40, 40, 3), np.uint8)


@cache
def seen(seed: int = 0, threads: int = 1) -> dict[str, Observation]:
    return observe(network(), FloatRunner(network()), images(), seed=seed, threads=threads).of()


def values_of(name: str) -> Any:
    """A tensor of every image, (N, H, W, C)."""
    found = [] if name != "input" else [images().astype(np.float32)]
    FloatRunner(network())(images(), lambda tensor, values: found.append(values) if tensor == name else None)
    return np.concatenate(found)


def test_what_is_computed_with_is_observed_and_what_is_moved_is_not() -> None:
    names = observed_tensors(network())
    assert names[:3] == ("input", "pool1", "fire2/squeeze1x1")
    assert {"fire2/concat", "fire2/bypass1x1", "pool2", "fire3/add", "conv10"} <= set(names)
    assert not {"conv1", "fire2/expand1x1", "fire2/expand3x3", "fire2/add", "logits"} & set(names)
    assert tuple(seen()) == (*names, "logits")


def test_the_logits_are_observed_as_often_as_any_tensor() -> None:
    logits, observation = FloatRunner(network())(images()), seen()["logits"]
    np.testing.assert_array_equal(observation.highs, np.maximum(logits, 0))
    np.testing.assert_array_equal(observation.lows, np.minimum(logits, 0))
    np.testing.assert_array_equal(observation.samples, logits.repeat(-(-PATCH_COUNT // COUNT), axis=0))


@pytest.mark.parametrize("name", ["input", "pool1", "fire3/squeeze1x1", "fire2/bypass1x1", "conv10"])
def test_ranges_are_those_of_every_image_and_channel(name: str) -> None:
    values = values_of(name)
    lows = values.min(axis=(1, 2)) if name == "fire2/bypass1x1" else np.zeros_like(seen()[name].highs)  # the only signed one
    np.testing.assert_array_equal(seen()[name].lows, lows)
    np.testing.assert_array_equal(seen()[name].highs, values.max(axis=(1, 2)))


def test_patches_are_shared_out_over_the_images() -> None:
    quota = -(-PATCH_COUNT // COUNT)
    for name, kernel in {"input": 3, "pool1": 1, "fire2/squeeze1x1": 3, "conv10": 1}.items():
        channels = network().sizes[name][2]
        assert seen()[name].patches.shape == (quota * COUNT, kernel, kernel, channels)


def test_patches_times_weights_are_the_readers_outputs() -> None:
    """So they lie where the reader looks, its stride and padding included."""
    for source, reader in (("input", "conv1"), ("fire2/squeeze1x1", "fire2/expand3x3"), ("fire2/squeeze1x1", "fire2/expand1x1")):
        (conv,) = (conv for conv in network().convs if conv.name == reader)
        patches = seen()[source].patches_for(conv.kernel)
        found = np.maximum(patches.reshape(len(patches), -1) @ weight_matrix(conv.weight) + conv.bias, 0)
        possible = values_of(reader).reshape(-1, len(conv.bias))
        distance = np.abs(found[:200, None] - possible[None]).max(axis=2).min(axis=1)
        assert distance.max() < 1e-3


def test_zero_padding_is_seen() -> None:
    patches = seen()["fire2/squeeze1x1"].patches
    assert (patches[:, 0] == 0).all(axis=(1, 2)).any()


def test_samples_are_the_centres() -> None:
    observation = Observation(np.zeros((1, 2)), np.zeros((1, 2)), np.arange(18, dtype=np.float32).reshape(1, 3, 3, 2))
    assert observation.samples.tolist() == [[8, 9]]
    assert observation.patches_for((3, 3)) is observation.patches
    assert observation.patches_for((1, 1)).tolist() == [[[[8, 9]]]]


def windows_seen(parts: Any = ()) -> Any:
    """What is kept of a network whose readers of one tensor have different kernels, some of even size."""
    graph, pixels = net("windows").graph, net("windows").pixels[:COUNT]
    return graph, pixels, observe(graph, FloatRunner(graph), pixels, seed=3, threads=1, parts=parts)


def test_every_kernel_has_patches_of_its_own() -> None:
    graph, pixels, found = windows_seen()
    values: dict[str, list[Any]] = {"input": [pixels.astype(np.float32)]}
    FloatRunner(graph)(pixels, lambda name, seen: values.setdefault(name, []).append(seen))
    assert set(found.of()["pool1"].others) == {(1, 3), (3, 1), (2, 2)}  # beside the widest, 3 x 3
    for conv in graph.convs:
        patches = found.of()[conv.input].patches_for(conv.kernel)
        assert patches.shape[1:3] == conv.kernel
        outputs = patches.reshape(len(patches), -1) @ weight_matrix(conv.weight) + conv.bias
        outputs = np.maximum(outputs, 0) if conv.relu else outputs
        possible = np.concatenate(values[conv.name]).reshape(-1, len(conv.bias))
        assert np.abs(outputs[:100, None] - possible[None]).max(axis=2).min(axis=1).max() < 1e-3


def test_samples_are_never_padding() -> None:
    """The only reader is 2 x 2, and padded at the bottom and right, where its centre falls."""
    graph = net("windows").graph
    even = next(conv for conv in graph.convs if conv.name == "even")
    ones = replace(even, name="conv1", input="input", weight=np.ones((1, 3, 2, 2), np.float32), bias=np.ones(1, np.float32))
    nodes = (replace(ones, pads=(0, 0, 1, 1)), GlobalAveragePool("logits", "conv1"))
    small = replace(graph, nodes=nodes, input=replace(graph.input, shape=("N", 3, 3, 3)))
    found = observe(small, FloatRunner(small), np.full((2, 3, 3, 3), 9, np.uint8), seed=0, threads=1).of()["input"]
    assert (found.samples == 9).all()
    assert (found.patches[:, 1, 1] == 0).any()


def test_parts_and_factors_reach_every_kernel() -> None:
    *_, found = windows_seen(parts=[[1]])
    whole, part = found.of()["pool1"], found.of([1])["pool1"]
    for kernel, patches in part.others.items():
        assert len(patches) == PATCH_COUNT
        halved = whole.divided(np.full(patches.shape[3], 2, np.float32))
        np.testing.assert_array_equal(halved.others[kernel], whole.others[kernel] / 2)


def test_divided_by_hand() -> None:
    observation = Observation(np.array([[-2.0, 4]]), np.array([[6.0, 8]]), np.array([[[[2.0, 12]]]]))
    halved = observation.divided(np.array([2.0, 4.0]))
    assert (halved.lows.tolist(), halved.highs.tolist(), halved.patches.tolist()) == ([[-1, 1]], [[3, 2]], [[[[1, 3]]]])


def test_threads_change_nothing() -> None:
    for name, observation in seen(threads=3).items():
        np.testing.assert_array_equal(observation.patches, seen()[name].patches)
        np.testing.assert_array_equal(observation.highs, seen()[name].highs)


def test_another_seed_looks_elsewhere_but_sees_the_same_ranges() -> None:
    other = seen(seed=1)["pool1"]
    assert (other.patches != seen()["pool1"].patches).any()
    np.testing.assert_array_equal(other.highs, seen()["pool1"].highs)


def test_progress_is_told_of_every_image() -> None:
    told: list[tuple[str, int, int]] = []
    observe(network(), FloatRunner(network()), images(), seed=0, threads=2, progress=lambda *step: told.append(step))
    assert told == [("calibrating", done, COUNT) for done in range(1, COUNT + 1)]


# --- parts and weights


def same(first: dict[str, Observation], second: dict[str, Observation]) -> bool:
    return list(first) == list(second) and all(
        np.array_equal(first[name].lows, o.lows)
        and np.array_equal(first[name].highs, o.highs)
        and np.array_equal(first[name].patches, o.patches)
        for name, o in second.items()
    )


def test_a_pass_that_knows_of_parts_gives_the_same_for_all_images() -> None:
    kept = observe(network(), FloatRunner(network()), images(), seed=0, threads=2, parts=[[1, 3], [1]])
    assert same(kept.of(), seen())
    assert kept.quotas == (410, 2048, 410, 1024, 410)


def test_a_part_has_its_own_images_ranges_and_as_many_patches_as_it_would_have_alone() -> None:
    kept = observe(network(), FloatRunner(network()), images(), seed=0, threads=1, parts=[[1, 3], [0, 1, 3]])
    for part in ([1, 3], [0, 1, 3]):
        found = kept.of(part)
        alone = observe(network(), FloatRunner(network()), images()[part], seed=0, threads=1).of()
        for name, observation in alone.items():
            np.testing.assert_array_equal(found[name].lows, observation.lows)
            np.testing.assert_array_equal(found[name].highs, observation.highs)
            assert found[name].patches.shape == observation.patches.shape
            # Drawn elsewhere, from the same maps: the mean of each channel is the same but for chance.
            ours, theirs = found[name].samples, observation.samples
            error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / len(ours)) + 1e-6
            assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error).all()


def test_patches_of_a_part_are_of_its_images_alone() -> None:
    bright = images()
    bright[2] = 255
    kept = observe(network(), FloatRunner(network()), bright, seed=0, threads=1, parts=[[2], [0, 1]])
    assert (kept.of([2])["input"].patches == 255).all()
    assert (kept.of([0, 1])["input"].patches < 255).any(axis=(1, 2, 3)).all()


def test_a_part_that_was_not_announced_is_refused() -> None:
    kept = observe(network(), FloatRunner(network()), images(), seed=0, threads=1)
    with pytest.raises(ValueError, match="too few patches"):
        kept.of([1, 3])


def test_weights_count_images_again_without_running_them_again() -> None:
    weights = (1, 3, 1, 1, 2)
    runs: list[int] = []

    def run(batch: Any, tap: Any) -> Any:
        runs.append(len(batch))
        return FloatRunner(network())(batch, tap)

    found = observe(network(), run, images(), seed=0, threads=1, weights=weights).of()
    assert sum(runs) == COUNT
    copies = images().repeat(weights, axis=0)
    copied = observe(network(), FloatRunner(network()), copies, seed=0, threads=1).of()
    for name, observation in copied.items():
        np.testing.assert_array_equal(found[name].lows, observation.lows)
        np.testing.assert_array_equal(found[name].highs, observation.highs)
        assert found[name].patches.shape == observation.patches.shape


def test_weights_of_one_change_nothing() -> None:
    kept = observe(network(), FloatRunner(network()), images(), seed=0, threads=1, weights=(1,) * COUNT)
    assert same(kept.of(), seen())


def test_a_part_keeps_its_weights() -> None:
    weights = (1, 3, 1, 1, 2)
    kept = observe(network(), FloatRunner(network()), images(), seed=0, threads=1, weights=weights, parts=[[1, 2]])
    found = kept.of([1, 2])["input"]
    assert found.highs.shape == (4, 3)
    assert len(found.patches) == 4 * 512
