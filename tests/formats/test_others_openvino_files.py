"""The audit of OpenVINO networks as other tools write them: right, or that it cannot be told; never a false charge.

The forms are built with OpenVINO's operators, and by NNCF where it is installed. OpenVINO's CPU judges: its runtime model tells
the precision of every convolution.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import ArrayLike

from squeeze_export.core import Audit, require
from squeeze_export.formats import audited
from squeeze_export.formats import openvino as format_
from squeeze_export.formats.contents import MOST_UNPACKING

openvino = require("openvino", "openvino", without=("openvino_telemetry",))
op = openvino.opset8
RANDOM = np.random.default_rng(0)
Make: TypeAlias = Callable[[Any], Any]
SIDE_PX = 20
MEANS = np.array([123.7, 116.3, 103.5]).reshape(1, 3, 1, 1)
STEP = 1 / 58


def values(*shape: int) -> Any:
    return RANDOM.normal(0, 0.3, shape).astype(np.float32)


def floats(array: ArrayLike) -> Any:
    return op.constant(np.array(array, np.float32))


def stepped(source: Any, low: ArrayLike, high: ArrayLike, levels: int = 256) -> Any:
    bounds = floats(low), floats(high)
    return op.fake_quantize(source, *bounds, *bounds, levels)


def activation(low: float = 0, high: float = 6, levels: int = 256) -> Make:
    return lambda source: stepped(source, low, high, levels)


TO_6, AROUND_0 = activation(), activation(-2, 2)


def by_channel(source: Any) -> Any:
    """Bounds that differ by channel."""
    count = source.get_output_partial_shape(0)[1].get_length()
    return stepped(source, np.zeros((1, count, 1, 1)), np.linspace(3, 6, count).reshape(1, count, 1, 1))


def largest(weight: Any) -> Any:
    return np.abs(weight).max(axis=(1, 2, 3), keepdims=True)


def rounded(low: float = -1, levels: int = 255) -> Make:
    """Float weights behind a FakeQuantize, as training and Intel's former Post-Training Optimization Tool leave them."""
    return lambda weight: stepped(op.constant(weight), low * largest(weight), largest(weight), levels)


def between(low: float, high: float, levels: int) -> Make:
    """The same, with bounds that do not depend on the weights."""
    return lambda weight: stepped(op.constant(weight), low, high, levels)


def stored(weight: Any, shift: Any = None, dtype: type[np.generic] = np.int8) -> Any:
    """Integers, Convert, Subtract, Multiply, as NNCF leaves them."""
    scale = largest(weight) / 127
    integers = op.convert(op.constant((np.round(weight / scale) + (128 if dtype is np.uint8 else 0)).astype(dtype)), "f32")
    return op.multiply(integers if shift is None else op.subtract(integers, shift), floats(scale))


def shifted(shift: Any, dtype: type[np.generic] = np.int8) -> Make:
    return lambda weight: stored(weight, shift, dtype)


def product(source: Any, weight: Any, outputs: int, stride: int = 1, pad: int = 0) -> Any:
    sides = [stride, stride], [pad, pad], [pad, pad], [1, 1]
    return op.add(op.convolution(source, weight, *sides), op.constant(values(1, outputs, 1, 1)))


def network(
    weights: Make = stored,
    act: Make = TO_6,
    front: Make = AROUND_0,
    inside: Make = lambda x: x,
    *,
    pixels: bool = False,
) -> Any:
    """Five convolutions and a Concat, like a Fire module; `inside` stands behind the first."""
    source = op.parameter([1, 3, SIDE_PX, SIDE_PX], np.uint8 if pixels else np.float32, name="x")
    made = inside(act(op.relu(product(front(source), weights(values(8, 3, 3, 3)), 8, stride=2))))
    pooled = op.max_pool(made, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3], "floor", "explicit").output(0)
    squeezed = act(op.relu(product(pooled, weights(values(4, 8, 1, 1)), 4)))
    left = act(op.relu(product(squeezed, weights(values(4, 4, 1, 1)), 4)))
    right = act(op.relu(product(squeezed, weights(values(4, 4, 3, 3)), 4, pad=1)))
    last = op.relu(product(op.concat([left, right], 1), weights(values(10, 8, 1, 1)), 10))
    return openvino.Model([op.result(op.reduce_mean(last, op.constant(np.array([2, 3])), False))], [source], "others")


def in_integers(model: Any) -> list[bool]:
    """Of each product, whether OpenVINO's CPU computes it in integers."""
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = [{key: value.astype(str) for key, value in op.get_rt_info().items()} for op in compiled.get_runtime_model().get_ops()]
    kinds = ("Convolution", "FullyConnected", "MatMul")
    return [node["runtimePrecision"] in ("i8", "u8") for node in told if node["layerType"] in kinds]


def judged(model: Any, folder: Path, *, halves: bool = False) -> tuple[Audit, list[bool]]:
    """What the audit says of a network as it is saved, and what OpenVINO does with it."""
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=halves)
    return audited("openvino", folder / "model.xml"), in_integers(folder / "model.xml")


def after(source: Any, *steps: tuple[Callable[..., Any], ArrayLike]) -> Any:
    """The pixels converted, then each step with its constant."""
    made = op.convert(source, "f32")
    for step, constant in steps:
        made = step(made, floats(constant))
    return made


def depthwise(source: Any) -> Any:
    """A product that takes other steps for each channel."""
    made = op.group_convolution(by_channel(source), stored_by_group(), [1, 1], [1, 1], [1, 1], [1, 1])
    return activation()(op.relu(made))


def stored_by_group() -> Any:
    integers = op.convert(op.constant(RANDOM.integers(-127, 128, (8, 1, 1, 3, 3)).astype(np.int8)), "f32")
    return op.multiply(integers, floats(np.full((8, 1, 1, 1, 1), 0.01)))


def behind_product(*steps: Make) -> Make:
    """One more product with something between it and its FakeQuantize."""

    def make(source: Any) -> Any:
        made = product(source, stored(values(8, 8, 1, 1)), 8)
        for step in steps:
            made = step(made)
        return activation()(made)

    return make


INTEGER = {
    "stored weights": {},
    "a zero point of 0": {"weights": shifted(floats(0))},
    "float weights, 255 steps": {"weights": rounded()},
    "float weights, 256 steps": {"weights": rounded(-128 / 127, 256)},
    "float weights, one scale": {"weights": between(-1, 1, 255)},
    "float weights, 256 steps, nearly centred": {"weights": between(-1.007, 1, 256)},
    "activations with a zero point": {"act": activation(-1, 6)},
    "activations, symmetric": {"act": activation(-6, 6, 255)},
    "activations of 4 bits": {"act": activation(0, 6, 16)},
    "pixels, scaled": {"pixels": True, "front": lambda x: after(x, (op.multiply, STEP))},
    "pixels, shifted and scaled": {"pixels": True, "front": lambda x: after(x, (op.subtract, 127.5), (op.divide, 58))},
    "pixels, a mean for each channel": {"pixels": True, "front": lambda x: after(x, (op.subtract, MEANS), (op.multiply, STEP))},
    "pixels, scaled and shifted": {"pixels": True, "front": lambda x: after(x, (op.multiply, STEP), (op.add, -2.1))},
    "pixels, normalized, quantized": {
        "pixels": True,
        "front": lambda x: activation(-2.2, 2.7)(after(x, (op.subtract, MEANS), (op.multiply, np.full((1, 3, 1, 1), STEP)))),
    },
    "a depthwise product": {"inside": depthwise},
    "an average pool": {"inside": lambda x: op.avg_pool(x, [1, 1], [0, 0], [0, 0], [2, 2], True)},
    "zero padding": {"inside": lambda x: op.pad(x, *[op.constant(np.array([0, 0, 1, 1]))] * 2, "constant", floats(0))},
    "ReLU6": {"inside": behind_product(lambda x: op.clamp(x, 0.0, 6.0))},
    "a leaky ReLU": {"inside": behind_product(lambda x: op.prelu(x, floats(np.full(8, 0.1))))},
    "a scale for each channel": {"inside": behind_product(lambda x: op.multiply(x, floats(np.full((1, 8, 1, 1), 0.7))), op.relu)},
}


@pytest.mark.parametrize("name", INTEGER)
def test_what_openvino_computes_in_integers_is_integer(name: str, tmp_path: Path) -> None:
    audit, products = judged(network(**INTEGER[name]), tmp_path)
    assert all(products)
    assert (audit.violations, audit.untold) == ((), ())


@pytest.mark.parametrize("weights", [stored, rounded(), rounded(-128 / 127, 256)])
def test_scales_and_weights_in_half_precision(weights: Make, tmp_path: Path) -> None:
    audit, products = judged(network(weights), tmp_path, halves=True)
    assert all(products)
    assert (audit.violations, audit.untold) == ((), ())


FLOAT = {
    "activations by channel": ({"act": by_channel}, "is not quantized to 256 steps of one size"),
    "activations of 100 steps": ({"act": activation(levels=100)}, "is not quantized to 256 steps of one size"),
    "activations of 16 bits": ({"act": activation(levels=65536)}, "is not quantized to 256 steps of one size"),
    "float weights, 16 steps": ({"weights": rounded(levels=16)}, "are quantized to 16 steps, not to 256"),
    "float weights, 300 steps": ({"weights": rounded(levels=300)}, "are quantized to 300 steps, not to 256"),
    "float weights": ({"weights": op.constant}, "are not stored as integers"),
    "pixels without a scale": ({"pixels": True, "front": after}, "is not quantized to 256 steps of one size"),
    "pixels, a scale for each channel": (
        {"pixels": True, "front": lambda x: after(x, (op.multiply, np.array([STEP, 0.02, 0.03]).reshape(1, 3, 1, 1)))},
        "is not quantized to 256 steps of one size",
    ),
}


@pytest.mark.parametrize("name", FLOAT)
def test_what_openvino_computes_in_float_is_charged_with_the_reason(name: str, tmp_path: Path) -> None:
    """The negative controls: as many products are charged as OpenVINO computes in float."""
    options, reason = FLOAT[name]
    audit, products = judged(network(**options), tmp_path)
    charged = [line for line in audit.violations if line.startswith("Convolution")]
    assert len(charged) == products.count(False) > 0
    assert all(reason in line for line in charged)


UNTOLD = {
    "a zero point": (shifted(floats(3)), "have a zero point"),
    "zero points of 8 bits": (shifted(op.convert(op.constant(np.int8(3)), "f32")), "have a zero point"),
    "unsigned weights": (shifted(floats(128), np.uint8), "have a zero point"),
    "float weights, asymmetric": (rounded(-0.7), "have a zero point"),
    "float weights, 256 steps, off centre by a half": (between(-1, 1, 256), "have a zero point"),
    "float weights, without 0": (between(0, 1, 256), "have a zero point"),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_weights_with_a_zero_point_cannot_be_told(name: str, tmp_path: Path) -> None:
    """OpenVINO's CPU computes them in float, other devices in integers."""
    weights, reason = UNTOLD[name]
    audit, products = judged(network(weights), tmp_path)
    assert not any(products)
    assert audit.violations == ()
    assert len(audit.untold) == len(products)
    assert all("computes in integers or in float" in line and reason in line for line in audit.untold)


def far_away(weight: Any) -> Any:
    made = stored(weight)
    for _ in range(MOST_UNPACKING):
        made = op.transpose(made, op.constant(np.array([0, 1, 2, 3])))
    return made


def test_weights_are_not_looked_for_without_end(tmp_path: Path) -> None:
    """Many products may read one long chain: half a megabyte of XML took 9 s."""
    audit, _ = judged(network(far_away), tmp_path)
    assert audit.violations == ()
    assert len(audit.untold) == 5
    assert all(f"lie behind more than {MOST_UNPACKING - 1} operators" in line for line in audit.untold)


def test_bounds_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may hold any number of them."""
    monkeypatch.setattr(format_, "MAX_NUMBERS", 0)
    audit, _ = judged(network(rounded()), tmp_path)
    assert audit.violations == ()
    assert all("have bounds that cannot be read" in line for line in audit.untold)
    assert len(audit.untold) == 5


# ------------------------------------------------------------------------------------------------------------------------- NNCF


@pytest.fixture(scope="module")
def nncf() -> Any:
    found = pytest.importorskip("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return found


def plain(front: Make = lambda x: x, *, pixels: bool = False, inside: Make = lambda x: x) -> Any:
    """The float network."""
    return network(op.constant, lambda x: x, front, inside, pixels=pixels)


def images(nncf: Any, *, pixels: bool) -> Any:
    shape = (1, 3, SIDE_PX, SIDE_PX)
    return nncf.Dataset([RANDOM.integers(0, 256, shape).astype(np.uint8) if pixels else values(*shape) for _ in range(4)])


NNCF_NETWORKS = {
    "floats": (plain, False),
    "pixels": (
        lambda: plain(lambda x: after(x, (op.subtract, MEANS), (op.multiply, np.full((1, 3, 1, 1), STEP))), pixels=True),
        True,
    ),
    "depthwise": (
        lambda: plain(
            inside=lambda x: op.relu(op.group_convolution(x, op.constant(values(8, 1, 1, 3, 3)), [1, 1], [1, 1], [1, 1], [1, 1]))
        ),
        False,
    ),
}


@pytest.mark.parametrize("name", NNCF_NETWORKS)
@pytest.mark.parametrize("preset", ["PERFORMANCE", "MIXED"])
def test_what_nncf_quantizes_is_integer(name: str, preset: str, nncf: Any, tmp_path: Path) -> None:
    make, pixels = NNCF_NETWORKS[name]
    model = nncf.quantize(make(), images(nncf, pixels=pixels), preset=nncf.QuantizationPreset[preset], subset_size=4)
    audit, products = judged(model, tmp_path, halves=True)
    assert all(products)
    assert (audit.violations, audit.untold) == ((), ())


@pytest.mark.parametrize("mode", ["INT8_ASYM", "INT8_SYM", "INT4_SYM"])
def test_what_nncf_compresses_is_none(mode: str, nncf: Any, tmp_path: Path) -> None:
    """Its weights alone are integers."""
    audit, products = judged(nncf.compress_weights(plain(), mode=nncf.CompressWeightsMode[mode]), tmp_path, halves=True)
    assert not any(products)
    assert audit.violations[0] == "no convolution computes in integers"
    charged = [line for line in audit.violations if line.startswith("Convolution")]
    assert len(charged) == len(products)
    assert all(", its weights alone are integers" in line for line in charged)
    assert audit.untold == ()
