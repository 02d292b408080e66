"""TFLite files of other converters: dynamic range, weights alone, other products, and what is newer than the reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from squeeze_export.errors import BadInput
from squeeze_export.formats import audited, format_named
from squeeze_export.formats.contents import FileOperator
from squeeze_export.targets.tflite.writer import Steps, Writer

STEPS = Steps((0.1,), (0,))
STABLEHLO_CONVOLUTION = 171
"""Its number in the schema."""
DRAW = np.random.default_rng(5)
MOVES = {"padding": 1, "strideW": 1, "strideH": 1}


@dataclass(frozen=True)
class Product:
    """A product, and where its operands stand in the file.

    Attributes:
        weights: shape.
        axis: of the weights' scales; None for one scale.
        source: shape of the activations.
        result: shape.
        options: the schema's.
        order: `x`, `w`, `bias` and `shape` (of the result) as the file has them.
    """

    weights: tuple[int, ...]
    axis: int | None
    source: tuple[int, ...]
    result: tuple[int, ...]
    options: tuple[str, Mapping[str, Any]]
    order: tuple[str, ...] = ("x", "w", "bias")


PRODUCTS: Mapping[str, Product] = {
    "CONV_2D": Product((8, 3, 3, 16), 0, (1, 8, 8, 16), (1, 6, 6, 8), ("Conv2DOptions", MOVES)),
    "DEPTHWISE_CONV_2D": Product(
        (1, 3, 3, 16), 3, (1, 8, 8, 16), (1, 6, 6, 16), ("DepthwiseConv2DOptions", {**MOVES, "depthMultiplier": 1})
    ),
    "FULLY_CONNECTED": Product((8, 16), None, (1, 16), (1, 8), ("FullyConnectedOptions", {})),
    "BATCH_MATMUL": Product((1, 16, 8), None, (1, 4, 16), (1, 4, 8), ("BatchMatMulOptions", {}), ("x", "w")),
    "TRANSPOSE_CONV": Product((8, 3, 3, 16), 0, (1, 6, 6, 16), (1, 8, 8, 8), ("TransposeConvOptions", MOVES), ("shape", "w", "x")),
    "CONV_3D": Product((1, 3, 3, 16, 8), None, (1, 1, 8, 8, 16), (1, 1, 6, 6, 8), ("Conv3DOptions", {**MOVES, "strideD": 1})),
}


def product(kind: str, weights: NDArray[Any], *, integers: bool = False, unpacked: bool = False) -> bytes:
    """A file of one product of float or integer activations; `unpacked` puts a DEQUANTIZE behind its weights."""
    form, writer = PRODUCTS[kind], Writer(kind)
    count = 1 if form.axis is None else weights.shape[form.axis]
    steps = None if weights.dtype == np.float32 else Steps((0.01,) * count, (0,) * count)
    activations, scale = ("int8", STEPS) if integers else ("float32", None)
    source = writer.tensor("x", form.source, activations, scale)
    stored = writer.constant("w", weights, steps)
    if unpacked:
        made = writer.tensor("w/float", weights.shape, "float32")
        writer.operator("DEQUANTIZE", 2, [stored], made)
        stored = made
    places = {"x": source, "w": stored}
    if "bias" in form.order:
        bias = np.zeros(form.result[-1], np.int32 if integers else np.float32)
        places["bias"] = writer.constant("bias", bias, STEPS if integers else None)
    if "shape" in form.order:
        places["shape"] = writer.constant("shape", np.asarray(form.result, np.int32))
    result = writer.tensor("y", form.result, activations, scale)
    writer.operator(kind, 1, [places[name] for name in form.order], result, form.options)
    model = writer.schema.ModelT.InitFromPackedBuf(writer.pack(source, result, {}))
    if form.axis is not None and steps is not None:
        next(t for t in model.subgraphs[0].tensors if t.name == b"w").quantization.quantizedDimension = form.axis
    return packed(model)


def packed(model: Any) -> bytes:
    builder = pytest.importorskip("flatbuffers").Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    model = Writer("").schema.ModelT.InitFromPackedBuf(content)
    change(model)
    return packed(model)


@pytest.fixture
def audit(tmp_path: Path) -> Callable[[bytes], Any]:
    def of(content: bytes) -> Any:
        (tmp_path / "a.tflite").write_bytes(content)
        return audited("tflite", tmp_path / "a.tflite")

    return of


def integers(kind: str) -> NDArray[np.int8]:
    return DRAW.integers(-127, 128, PRODUCTS[kind].weights).astype(np.int8)


def run(content: bytes, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """LiteRT's own builtin kernels."""
    library = pytest.importorskip("ai_edge_litert.interpreter")
    plain = library.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = library.Interpreter(model_content=content, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


@pytest.mark.parametrize("kind", [kind for kind in PRODUCTS if kind != "CONV_3D"])
def test_a_dynamic_range_product_is_named_as_one(kind: str, audit: Callable[[bytes], Any]) -> None:
    """And LiteRT's kernel does what is said: the error of its result is that of activations rounded to 8 bits."""
    weights = integers(kind)
    content = product(kind, weights)
    found = audit(content)
    assert found.violations == (
        f"{kind} `y`: dynamic-range quantization, its weights are int8, and its kernel quantizes the activations, which are "
        "floats, while it runs",
    )
    assert found.untold == ()
    pixels = DRAW.normal(size=PRODUCTS[kind].source).astype(np.float32)
    exact = run(product(kind, weights.astype(np.float32) * np.float32(0.01)), pixels)
    error = np.abs(run(content, pixels) - exact).max() / np.abs(exact).max()
    assert 1e-3 < error < 0.05


def test_no_kernel_multiplies_integers_in_three_dimensions(audit: Callable[[bytes], Any]) -> None:
    """Negative control: LiteRT refuses the same form of a 3D convolution."""
    content = product("CONV_3D", integers("CONV_3D"))
    with pytest.raises(RuntimeError, match="conv3d"):
        run(content, np.zeros(PRODUCTS["CONV_3D"].source, np.float32))
    found = audit(content)
    assert found.violations[1].startswith("CONV_3D `y` computes in float: ")
    assert found.violations[1].endswith("its weights alone are integers")


@pytest.mark.parametrize("kind", [kind for kind in PRODUCTS if kind != "CONV_3D"])
def test_weights_that_are_unpacked_leave_the_product_in_float(kind: str, audit: Callable[[bytes], Any]) -> None:
    """And LiteRT computes exactly as with floats."""
    weights = integers(kind)
    content = product(kind, weights, unpacked=True)
    shape = ",".join(map(str, weights.shape))
    found = audit(content)
    assert found.violations[0] == "no convolution computes in integers: weight-only quantization (int8 in 1 of 1 products)"
    assert found.violations[1].startswith(f"{kind} `y` computes in float: ")
    assert f"its operand `w/float` is float32[{shape}], unpacked from int8[{shape}]" in found.violations[1]
    assert found.violations[1].endswith("its weights alone are integers")
    pixels = DRAW.normal(size=PRODUCTS[kind].source).astype(np.float32)
    exact = run(product(kind, weights.astype(np.float32) * np.float32(0.01)), pixels)
    np.testing.assert_allclose(run(content, pixels), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_integers_and_floats_of_every_product(kind: str, audit: Callable[[bytes], Any]) -> None:
    whole = audit(product(kind, integers(kind), integers=True))
    assert (whole.violations, whole.untold) == ((), ())
    form = PRODUCTS[kind]
    floats = audit(product(kind, integers(kind).astype(np.float32))).violations
    assert floats[0] == "no convolution computes in integers"
    for role, name, shape in (("input", "x", form.source), ("operand", "w", form.weights), ("result", "y", form.result)):
        assert f"its {role} `{name}` is float32[{','.join(map(str, shape))}]" in floats[1]
    assert "integers" not in floats[1]


def operators(content: bytes, folder: Path) -> tuple[FileOperator, ...]:
    (folder / "a.tflite").write_bytes(content)
    return format_named("tflite").read(folder / "a.tflite").operators


def test_operands_come_in_one_order(tmp_path: Path) -> None:
    """Data first, then weights, whatever order the format has."""
    (transposed,) = operators(product("TRANSPOSE_CONV", integers("TRANSPOSE_CONV"), integers=True), tmp_path)
    assert [tensor.name for tensor in transposed.inputs] == ["x", "w", "shape"]
    writer = Writer("parts")
    source = writer.tensor("x", (1, 4), "int8", STEPS)
    part = writer.tensor("part", (1, 4), "int8", STEPS)
    writer.operator(
        "SPLIT", 1, [writer.constant("axis", np.asarray(1, np.int32)), source], part, ("SplitOptions", {"numSplits": 1})
    )
    (split,) = operators(writer.pack(source, part, {}), tmp_path)
    assert [tensor.name for tensor in split.inputs] == ["x", "axis"]


@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_recurrent_layers_are_products(activations: str, audit: Callable[[bytes], Any]) -> None:
    """With their many weights, of which some may be left out."""
    writer = Writer("sequence")
    steps = STEPS if activations == "int8" else None
    source = writer.tensor("x", (1, 5, 4), activations, steps)
    weights = [writer.constant(f"w{place}", np.ones((4, 4), np.int8), STEPS) for place in range(6)]
    result = writer.tensor("y", (1, 5, 4), activations, steps)
    writer.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", 1, [source, -1, *weights], result)
    found = audit(writer.pack(source, result, {}))
    assert len(found.violations) == (activations == "float32")
    assert all("dynamic-range quantization, its weights are int8" in line for line in found.violations)


def test_weights_in_blocks_have_scales(audit: Callable[[bytes], Any]) -> None:
    """They stand in a tensor of their own."""

    def change(model: Any) -> None:
        schema, graph = Writer("").schema, model.subgraphs[0]
        model.buffers.append(schema.BufferT(data=np.full(8, 0.01, np.float16).view(np.uint8)))
        graph.tensors.append(
            schema.TensorT(name="scales", type=schema.TensorType.FLOAT16, shape=[8, 1], buffer=len(model.buffers) - 1)
        )
        tensor = next(t for t in graph.tensors if t.name == b"w")
        tensor.quantization = schema.QuantizationParametersT(
            detailsType=schema.QuantizationDetails.BlockwiseQuantization,
            details=schema.BlockwiseQuantizationT(scales=len(graph.tensors) - 1, blockSize=16),
        )

    content = product("FULLY_CONNECTED", integers("FULLY_CONNECTED"), integers=True)
    assert audit(changed(content, change)).violations == ()

    def drop(model: Any) -> None:
        next(t for t in model.subgraphs[0].tensors if t.name == b"w").quantization = None

    assert audit(changed(content, drop)).violations == ("FULLY_CONNECTED `y`: its integers `w` have no scale",)


def test_scales_of_blocks_are_read_once_however_many_tensors_name_them(tmp_path: Path) -> None:
    """A small file could otherwise ask for any amount of memory."""

    def change(model: Any) -> None:
        schema, graph = Writer("").schema, model.subgraphs[0]
        model.buffers.append(schema.BufferT(data=np.full(8, 0.01, np.float16).view(np.uint8)))
        graph.tensors.append(
            schema.TensorT(name="scales", type=schema.TensorType.FLOAT16, shape=[8], buffer=len(model.buffers) - 1)
        )
        for tensor in graph.tensors[:-1]:
            tensor.quantization = schema.QuantizationParametersT(
                detailsType=schema.QuantizationDetails.BlockwiseQuantization,
                details=schema.BlockwiseQuantizationT(scales=len(graph.tensors) - 1, blockSize=16),
            )

    path = tmp_path / "many.tflite"
    path.write_bytes(changed(product("FULLY_CONNECTED", integers("FULLY_CONNECTED"), integers=True), change))
    (operator,) = format_named("tflite").read(path).operators
    data, weights = operator.inputs[:2]
    assert len(data.scales) == 8
    assert data.scales is weights.scales
    assert data.zero_points is weights.zero_points


# ------------------------------------------------------------------------------------------------------- newer than the reader


def code(number: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.operatorCodes[0].builtinCode, model.operatorCodes[0].deprecatedBuiltinCode = number, min(number, 127)

    return change


def strange_type(model: Any) -> None:
    next(tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"w").type = 99


def strange_quantization(model: Any) -> None:
    schema = Writer("").schema
    tensor = next(tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"w")
    tensor.quantization = schema.QuantizationParametersT(
        detailsType=schema.QuantizationDetails.CustomQuantization, details=schema.CustomQuantizationT(custom=[1, 2])
    )


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (code(230), "BUILTIN:230", "the builtin operator 230 is of a newer schema than this reader's"),
        (code(STABLEHLO_CONVOLUTION), "STABLEHLO_CONVOLUTION", "its arithmetic is not read"),
        (strange_type, "CONV_2D", "`w` has the type 99, of a newer schema than this reader's"),
        (strange_quantization, "CONV_2D", "`w` is quantized in a way of its own"),
    ],
)
def test_what_is_newer_cannot_be_told(change: Callable[[Any], None], kind: str, reason: str, audit: Callable[[bytes], Any]) -> None:
    found = audit(changed(product("CONV_2D", integers("CONV_2D"), integers=True), change))
    assert (found.violations, found.untold) == ((), (f"{kind} `y` cannot be seen through: {reason}",))


@pytest.mark.parametrize("change", [code(-3), lambda model: setattr(model.subgraphs[0].tensors[0], "type", -1)])
def test_numbers_that_no_schema_has_are_damage(change: Callable[[Any], None], audit: Callable[[bytes], Any]) -> None:
    with pytest.raises(BadInput, match="damaged TFLite file"):
        audit(changed(product("CONV_2D", integers("CONV_2D")), change))
