"""The recipe as a whole: limits, dead parts, sameness, what each step is worth, and the real network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export import __version__
from squeeze_export.core import TORCHVISION
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import INT8, INT16X8, SCHEMES, QuantizedGraph, Scheme
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.table import read_table, table_bytes
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.architecture import FAMILY, Architecture, Fire, architecture, tensor_shapes
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.quant import recipes
from squeeze_export.quant.observations import Observation
from squeeze_export.quant.ranges import SMALLEST_SHARE
from squeeze_export.quant.recipes import FIRST_WEIGHT_LIMIT, WEIGHT_LIMIT, quantize, weight_limits
from squeeze_export.quant.rounding import MAX_BIAS, nearest
from tests.contract.conftest import floats

SMALL = Architecture("small", 6, 3, (Fire(3, 4, 5, "complex"), Fire(3, 4, 5, "simple")), (0,), 5)


def he_tensors(arch: Architecture) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        key: rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }


def graph_of(arch: Architecture, size_px: int, tensors: dict[str, Any] | None = None) -> Graph:
    return build_graph(arch, tensors or he_tensors(arch), replace(TORCHVISION, crop_px=size_px), checkpoint_sha256="c0ffee")


def blobs(count: int, size_px: int, seed: int = 1) -> Any:
    """Random images of low frequency."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), np.uint8)
    return coarse.repeat(-(-size_px // 5), 1).repeat(-(-size_px // 5), 2)[:, :size_px, :size_px]


def in_integers(graph: Graph, pixels: Any, **settings: Any) -> QuantizedGraph:
    return quantize(graph, pixels, FloatRunner(graph), INT8, **settings)


@cache
def small() -> tuple[Graph, QuantizedGraph]:
    graph = graph_of(SMALL, 40)
    return graph, in_integers(graph, blobs(16, 40))


def sqnr_db(reference: Any, values: Any) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - values).sum()))


def assert_sound(quantized: QuantizedGraph) -> None:
    """Finite, within the limits of weights and biases, every scale above 0."""
    for conv in quantized.convs:
        limit = FIRST_WEIGHT_LIMIT if conv.name == "conv1" else WEIGHT_LIMIT
        assert np.abs(conv.weight.astype(int)).max() <= limit, conv.name
        assert np.isfinite(conv.weight_scale).all()
        assert (conv.weight_scale > 0).all()
        assert np.abs(conv.bias.astype(np.int64)).max() < 2 * MAX_BIAS
    assert all(np.isfinite(q.scale) and q.scale > 0 for q in quantized.tensors.values())


@pytest.mark.parametrize("name", FAMILY)
def test_the_family_in_integers_is_close_to_the_floats(name: str) -> None:
    arch = architecture(name, class_count=12)
    graph = graph_of(arch, 64)
    quantized = in_integers(graph, blobs(8, 64), threads=2)
    assert_sound(quantized)
    pixels = blobs(4, 64, seed=2)
    assert sqnr_db(FloatRunner(graph)(pixels), IntegerRunner(quantized)(pixels)) > 25


def test_conv1_has_7_bits_and_the_others_8() -> None:
    """conv1 alone meets pixels of 255 everywhere: pairs of u8 x s8 products must fit int16 on CPUs without VNNI."""
    assert 2 * 255 * FIRST_WEIGHT_LIMIT < 2**15 < 2 * 255 * (FIRST_WEIGHT_LIMIT + 1)
    _, quantized = small()
    largest = [int(np.abs(conv.weight.astype(int)).max()) for conv in quantized.convs]
    assert largest[0] == FIRST_WEIGHT_LIMIT
    assert FIRST_WEIGHT_LIMIT < max(largest[1:]) <= WEIGHT_LIMIT


@pytest.mark.parametrize("scheme", [s for s in SCHEMES.values() if s.integer and s is not INT8], ids=lambda scheme: scheme.name)
def test_every_scheme_gives_a_sound_table(scheme: Scheme, tmp_path: Path) -> None:
    graph, _ = small()
    quantized = quantize(graph, blobs(16, 40), FloatRunner(graph), scheme)
    (tmp_path / "a.table").write_bytes(table_bytes(quantized))
    assert read_table(tmp_path / "a.table").scheme == scheme
    limit = WEIGHT_LIMIT if scheme is INT16X8 else FIRST_WEIGHT_LIMIT
    assert np.abs(quantized.convs[0].weight.astype(int)).max() == limit
    least_db = {"int16x8": 40, "int8-per-tensor": 22}.get(scheme.name, 28)
    pixels = blobs(4, 40, seed=2)
    assert sqnr_db(FloatRunner(graph)(pixels), IntegerRunner(quantized)(pixels)) > least_db


def test_what_the_table_says_of_itself() -> None:
    graph, _ = small()
    quantized = in_integers(graph, blobs(3, 40), seed=5, provenance={"image_sha256": ["a"], "network": "n"})
    assert quantized.provenance == {
        "recipe": "fast",
        "seed": 5,
        "image_count": 3,
        "checkpoint_sha256": "c0ffee",
        "squeeze_export": __version__,
        "image_sha256": ["a"],
        "network": "n",
    }
    assert (quantized.name, quantized.input, quantized.output, quantized.scheme) == (graph.name, graph.input, graph.output, INT8)
    assert [node.name for node in quantized.nodes] == [node.name for node in graph.nodes]


def test_the_same_seed_and_images_give_the_same_bytes_on_any_number_of_threads() -> None:
    graph, quantized = small()
    assert table_bytes(in_integers(graph, blobs(16, 40), threads=3)) == table_bytes(quantized)


def test_another_seed_gives_other_integers() -> None:
    graph, quantized = small()
    other = in_integers(graph, blobs(16, 40), seed=1)
    assert any((a.weight != b.weight).any() for a, b in zip(other.convs, quantized.convs, strict=True))


def dead_filters(tensors: dict[str, Any]) -> None:
    for key in ("features.0", "features.3.squeeze", "features.3.expand1x1", "features.3.bypass"):
        tensors[f"{key}.weight"][0] = 0
        tensors[f"{key}.bias"][0] = -3
    tensors["classifier.1.weight"][1] = 0
    tensors["classifier.1.bias"][1] = 2  # a filter that gives the same for every image


def dead_tensor(tensors: dict[str, Any]) -> None:
    tensors["features.3.squeeze.weight"][:] = 0
    tensors["features.3.squeeze.bias"][:] = -1


def dead_network(tensors: dict[str, Any]) -> None:
    for values in tensors.values():
        values[:] = 0


def nearly_dead_filter(tensors: dict[str, Any]) -> None:
    """A bias a billion times its weights."""
    tensors["features.3.squeeze.weight"][0] *= 1e-12
    tensors["features.3.squeeze.bias"][0] = 900


@pytest.mark.parametrize("kill", [dead_filters, dead_tensor, dead_network, nearly_dead_filter])
def test_dead_parts_do_no_harm(kill: Any) -> None:
    tensors = he_tensors(SMALL)
    kill(tensors)
    graph = graph_of(SMALL, 40, tensors)
    quantized = in_integers(graph, blobs(16, 40))
    assert_sound(quantized)
    pixels = blobs(4, 40, seed=2)
    expected, found = FloatRunner(graph)(pixels), IntegerRunner(quantized)(pixels)
    assert np.abs(found - expected).max() <= 0.05 * max(float(np.abs(expected).max()), 1e-6)


@pytest.mark.parametrize("value", [0, 255])
def test_constant_images_give_finite_tables(value: int) -> None:
    graph, _ = small()
    assert_sound(in_integers(graph, np.full((2, 40, 40, 3), value, np.uint8)))


@dataclass(frozen=True)
class Real:
    """The real v1.1 on photographs: 64 to calibrate, 48 others to evaluate.

    Attributes:
        quantized: by the recipe as it stands.
        logits: its own, by the integer run.
    """

    graph: Graph
    calibration: Any
    evaluation: Any
    reference: Any
    seen: dict[str, Observation]
    quantized: QuantizedGraph
    logits: Any

    def sqnr_db_again(self) -> float:
        """Quantizes again, with whatever a test has replaced in the recipe, on what was already observed."""
        quantized = quantize(self.graph, self.calibration, FloatRunner(self.graph), INT8, threads=2)
        return sqnr_db(self.reference, side_by_side(IntegerRunner(quantized), self.evaluation))


def side_by_side(run: Any, pixels: Any) -> Any:
    with ThreadPoolExecutor(2) as pool:
        return np.concatenate(list(pool.map(run, np.split(pixels, len(pixels)))))


@pytest.fixture(scope="module")
def real(assets: Path) -> Iterator[Real]:
    checkpoint = read_checkpoint(assets / "weights" / "squeezenet1_1.safetensors")
    graph = build_graph(checkpoint.architecture, checkpoint.tensors, TORCHVISION)
    photographs = sorted((assets / "images" / "eval").glob("*/*.jpg"))
    files = [*sorted((assets / "images" / "calib").glob("*.jpg"))[:128:2], *photographs[:: len(photographs) // 48][:48]]
    with ThreadPoolExecutor(2) as pool:
        pixels = np.stack(list(pool.map(load_pixels, files, itertools.repeat(TORCHVISION))))
    calibration, evaluation, run = pixels[:64], pixels[64:], FloatRunner(graph)
    seen = recipes.observe(graph, run, calibration, seed=0, threads=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "observe", lambda *args, **kwargs: seen)  # one pass serves every test below
        quantized = quantize(graph, calibration, run, INT8, threads=2)
        logits = side_by_side(IntegerRunner(quantized), evaluation)
        yield Real(graph, calibration, evaluation, side_by_side(run, evaluation), seen.of(), quantized, logits)


def test_the_real_network_keeps_34_db(real: Real) -> None:
    assert_sound(real.quantized)
    assert sqnr_db(real.reference, real.logits) >= 34
    assert (real.logits.argmax(axis=1) == real.reference.argmax(axis=1)).mean() >= 0.9


def test_ranges_of_the_real_network_cover_what_was_seen(real: Real) -> None:
    conv10 = real.quantized.tensors["conv10"]
    assert conv10.scale * 255.01 >= SMALLEST_SHARE * real.seen["conv10"].highs.max()


def test_equalization_is_worth_something(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "equalize", lambda graph, seen, scheme: (graph, dict(seen)))
    assert real.sqnr_db_again() < sqnr_db(real.reference, real.logits) - 0.5


def test_compensated_rounding_is_worth_something(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "compensated", lambda weight, scale, limit, moment: nearest(weight, scale, limit))
    assert real.sqnr_db_again() < sqnr_db(real.reference, real.logits) - 0.5


def test_bias_correction_is_worth_something(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "corrected_bias", lambda bias, *means: bias.astype(np.float64))
    assert real.sqnr_db_again() < sqnr_db(real.reference, real.logits) - 0.5


def test_ranges_cut_to_a_quarter_are_noticed(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the 34 dB."""
    search = recipes.search_ranges

    def cut(graph: Graph, seen: Any, scheme: Any) -> Any:
        chosen = search(graph, seen, scheme)
        return {name: q if name == "input" else replace(q, scale=q.scale / 4) for name, q in chosen.items()}

    monkeypatch.setattr(recipes, "search_ranges", cut)
    assert real.sqnr_db_again() < 15


def test_what_reads_pixels_or_a_normalize_has_7_bits() -> None:
    """Both have integers up to 255 in every position."""
    limits = weight_limits(floats("normalize")[0])
    assert limits == {"normalize": 64, "conv1": 64, "joined": 127, "conv10": 127}
