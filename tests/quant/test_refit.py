"""Layer by layer: least squares on what the integers give, sameness by seed, and what it is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from squeeze_export import demo
from squeeze_export.core import TORCHVISION, FloatArray
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import INT8
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.table import table_bytes
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.pipeline import open_network
from squeeze_export.quant import refit
from squeeze_export.quant.recipes import quantize
from squeeze_export.quant.rounding import Inputs

SMALL = Architecture("small", 6, 3, (Fire(3, 4, 5, "complex"), Fire(3, 4, 5, "simple")), (0,), 5)


@pytest.fixture(scope="module")
def small() -> Graph:
    rng = np.random.default_rng(0)
    tensors = {
        key: rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(SMALL).items()
    }
    return build_graph(SMALL, tensors, replace(TORCHVISION, crop_px=40))


@pytest.fixture(scope="module")
def pixels() -> Any:
    coarse = np.random.default_rng(1).integers(0, 256, (16, 5, 5, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


def values(seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Correlated values and what a layer is given of them: rounded, and off by something that depends on them."""
    rng = np.random.default_rng(seed)
    exact = (rng.normal(0, 1, (4_000, 6)) @ rng.normal(0, 1, (6, 6)) + 3).astype(np.float32)
    return exact, (np.rint(exact * 4) / 4 + 0.1 * exact[:, ::-1] + 0.5).astype(np.float32)


def test_inputs_are_means_and_moments() -> None:
    exact, given = values()
    found = Inputs.of(exact, given, with_error=True)
    centred = given - given.mean(axis=0)
    error = exact - exact.mean(axis=0) - centred
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.given_mean, given.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.power, (given.astype(np.float64) ** 2).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.moment, centred.T @ centred / len(given), atol=1e-3)
    np.testing.assert_allclose(found.error_moment, error.T @ centred / len(given), atol=1e-3)
    assert Inputs.of(exact, given).error_moment is None


def halves(exact: FloatArray, given: FloatArray) -> refit._Halves:
    parts = [Inputs.of(exact[start::2], given[start::2], with_error=True) for start in (0, 1)]
    return refit._Halves(parts[0], parts[1], 0.5)


def test_halves_together_are_the_whole() -> None:
    exact, given = values()
    one, other = (Inputs.of(exact[part], given[part], with_error=True) for part in (slice(1_000), slice(1_000, None)))
    whole, merged = Inputs.of(exact, given, with_error=True), one.merged(other, 0.25)
    for name in ("mean", "given_mean", "power", "moment", "error_moment"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-3, atol=1e-3)


def test_weights_are_the_least_squares_solution() -> None:
    exact, given = values()
    weight = np.random.default_rng(2).normal(0, 1, (3, 6)).astype(np.float32)
    wanted = (exact - exact.mean(axis=0)) @ weight.T
    centred = given - given.mean(axis=0)
    solution = np.linalg.lstsq(centred, wanted, rcond=None)[0].T
    found, _ = refit._refitted(weight, halves(exact, given))
    np.testing.assert_allclose(found, solution, atol=0.02)  # the damping's share
    before, after = (float(np.square(centred @ w.T - wanted).mean()) for w in (weight, found))
    assert after < 0.5 * before


def test_weights_stay_where_nothing_was_lost() -> None:
    exact, _ = values()
    weight = np.random.default_rng(2).normal(0, 1, (3, 6)).astype(np.float32)
    found, _ = refit._refitted(weight, halves(exact, exact))
    np.testing.assert_allclose(found, weight, atol=1e-5)


def test_weights_stay_where_the_halves_tell_different_things() -> None:
    """Errors that depend on the input one way in half of the images and the other way in the rest teach nothing."""
    exact, _ = values()
    sign = np.where(np.arange(len(exact)) % 2, 0.2, -0.2)[:, None]
    given = (exact + sign * exact[:, ::-1]).astype(np.float32)
    weight = np.random.default_rng(2).normal(0, 1, (3, 6)).astype(np.float32)
    found, _ = refit._refitted(weight, halves(exact, given))
    assert (found == weight).all()


def test_the_same_seed_gives_the_same_integers(small: Graph, pixels: Any) -> None:
    def table(**settings: Any) -> bytes:
        return table_bytes(quantize(small, pixels, FloatRunner(small), INT8, recipe="best", **settings))

    assert table(threads=2) == table(threads=1)
    assert table(seed=1) != table()
    assert table(weights=[2] * len(pixels)) != table()


def test_progress_counts_the_layers(small: Graph, pixels: Any) -> None:
    told: list[tuple[str, int, int]] = []
    quantize(small, pixels, FloatRunner(small), INT8, recipe="best", progress=lambda *step: told.append(step))
    count = len(small.convs)
    assert [step for step in told if step[0] == "refitting"] == [("refitting", done, count) for done in range(count + 1)]


def test_it_is_nearer_to_float_than_fast_on_the_images_it_saw() -> None:
    """Only on those: what it gains on others is a matter of measurement, not of a test."""
    graph = open_network(None).graph
    pixels = ImageStream(open_calibration(demo.calibration_folder()), graph.preprocess).load()[0].pixels[:24]
    expected = FloatRunner(graph)(pixels)
    errors = {}
    for recipe in ("fast", "best"):
        made = quantize(graph, pixels, FloatRunner(graph), INT8, recipe=recipe, threads=2)
        errors[recipe] = float(np.square(IntegerRunner(made)(pixels) - expected).sum())
    assert errors["best"] < errors["fast"]
