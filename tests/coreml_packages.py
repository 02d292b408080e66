"""Small `.mlpackage` folders to test the Core ML runtimes with, written by coremltools itself and not by this project's target."""

from __future__ import annotations

import importlib.util
import io
import logging
import shutil
import struct
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import Artifact, TensorSpec, require
from squeeze_export.formats.coreml.package import read_package
from squeeze_export.formats.coreml.program import Program
from squeeze_export.formats.coreml.values import Array
from squeeze_export.runtimes.quiet import quiet

Build = Callable[[Any, Any], Any]
"""`build(mb, x)` adds operations and gives the last one's result, or several."""

SPEC = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def coremltools() -> Any:
    """The library, or the test is skipped."""
    if importlib.util.find_spec("coremltools") is None:
        pytest.skip("coremltools is not installed")
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tools = require("coremltools", "coreml", without=("torch", "tensorflow", "sklearn"))
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    return tools


def written(
    folder: Path,
    build: Build,
    shape: Sequence[Any] = (1, 3, 8, 8),
    *,
    dtype: str = "fp32",
    ios: int = 17,
    name: str = "x",
    color: str = "",
    most: int = 0,
    classes: Sequence[Any] = (),
) -> Path:
    """Writes a package.

    Args:
        folder: where to.
        build: what it computes.
        shape: of its input.
        dtype: of its input: `fp32` or `fp16`.
        ios: 17 or 18.
        name: of its input.
        color: `RGB` or `BGR` of an image; empty for an array.
        most: of an array: the largest number of images where it is open; 0 where it is `shape[0]`.
        classes: of a classifier; then the last result goes to `classify`.
    """
    tools = coremltools()
    mil = tools.converters.mil
    target = tools.target.iOS18 if ios == 18 else tools.target.iOS17
    batch: Any = mil.mil.get_new_symbol() if most else shape[0]
    program = mil.mil.Program()
    source = mil.Builder.placeholder((batch, *shape[1:]), getattr(mil.mil.types, dtype))
    with mil.mil.Function({name: source}, opset_version=target) as function:
        made = build(mil.Builder, function.inputs[name])
        function.set_outputs(list(made) if isinstance(made, tuple) else [made])
        program.add_function("main", function)
    if color:
        layout = getattr(tools.colorlayout, color)
        taken = tools.ImageType(name=name, shape=tuple(shape), channel_first=True, color_layout=layout)
    else:
        open_batch = tools.RangeDim(shape[0], most, default=shape[0])
        sizes = (open_batch, *shape[1:]) if most else tuple(shape)
        taken = tools.TensorType(name=name, shape=sizes, dtype=np.float16 if dtype == "fp16" else np.float32)
    with redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tools.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            inputs=[taken],
            classifier_config=tools.ClassifierConfig(list(classes)) if classes else None,
            compute_precision=tools.precision.FLOAT32,
            pass_pipeline=tools.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        path = folder / "a.mlpackage"
        model.save(str(path))
    return path


def artifact(path: Path) -> Artifact:
    nothing = TensorSpec("", (), "", "")  # a session reads the package, not the artifact's description of it
    return Artifact(path, "coreml", "int8", "", 0, nothing, nothing)


def program_in(path: Path) -> Program:
    """A package's program, whatever its input is."""
    return read_package(path).program


def message_of(content: bytes) -> Any:
    """A model file in coremltools' own message classes."""
    coremltools()
    from coremltools.proto import Model_pb2

    return Model_pb2.Model.FromString(content)


def change_model(path: Path, change: Callable[[Any], None]) -> None:
    """Changes the model file of a package."""
    model = message_of((path / SPEC).read_bytes())
    change(model)
    (path / SPEC).write_bytes(model.SerializeToString())


def change_bytes(file: Path, at: int, value: bytes) -> None:
    """Writes other bytes over those at a place of a file."""
    content = bytearray(file.read_bytes())
    content[at : at + len(value)] = value
    file.write_bytes(content)


def blobs(path: Path) -> list[tuple[int, int]]:
    """Where the data in `weight.bin` begin and how long they are, read without the project's reader."""
    content = (path / WEIGHTS).read_bytes()
    found, at = [], 64
    for _ in range(struct.unpack_from("<I", content)[0]):
        size, start = struct.unpack_from("<QQ", content, at + 8)
        found.append((start, size))
        at = (start + size + 63) // 64 * 64
    return found


def copied(path: Path, folder: Path) -> Path:
    """A copy of a package, to be changed."""
    return Path(shutil.copytree(path, folder / "a.mlpackage"))


def block_of(model: Any) -> Any:
    """The operations' block of a model message."""
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def operation_of(model: Any, operator: str) -> Any:
    """The first operation of a type."""
    return next(operation for operation in block_of(model).operations if operation.type == operator)


def operation_named(model: Any, name: str) -> Any:
    """The operation that makes a tensor."""
    return next(entry for entry in block_of(model).operations if name in [output.name for output in entry.outputs])


def bind(model: Any, name: str, operand: str, source: str) -> None:
    """Lets an operation read another tensor."""
    operation_named(model, name).inputs[operand].arguments[0].name = source


def set_type(name: str, code: int = 0, sizes: tuple[int, ...] | None = None, rank: int | None = None) -> Callable[[Any], None]:
    """Changes the declared type of a tensor."""

    def change(model: Any) -> None:
        for operation in block_of(model).operations:
            for output in operation.outputs:
                if output.name == name:
                    tensor = output.type.tensorType
                    tensor.dataType = code or tensor.dataType
                    if sizes is not None:
                        del tensor.dimensions[:]
                        for size in sizes:
                            tensor.dimensions.add().constant.size = size
                        tensor.rank = len(sizes)
                    tensor.rank = tensor.rank if rank is None else rank

    return change


def point(operator: str, key: str, *tensors: str) -> Callable[[Any], None]:
    """Binds an argument to other tensors."""

    def change(model: Any) -> None:
        argument = operation_of(model, operator).inputs[key]
        del argument.arguments[:]
        for tensor in tensors:
            argument.arguments.add().name = tensor

    return change


def value_of(operator: str, key: str, change_value: Callable[[Any], None]) -> Callable[[Any], None]:
    """Changes the constant that an argument is bound to."""

    def change(model: Any) -> None:
        name = operation_of(model, operator).inputs[key].arguments[0].name
        held = next(entry for entry in block_of(model).operations if entry.outputs[0].name == name)
        change_value(held.attributes["val"])

    return change


def real(wanted: float) -> Callable[[Any], None]:
    """A constant's new value, for `value_of`."""

    def change(value: Any) -> None:
        value.immediateValue.tensor.floats.values[0] = wanted

    return change


def int8_network(mb: Any, x: Any) -> Any:
    """Two convolutions in integers and a pool between them, as a target writes them; the logits in float."""
    draw = np.random.default_rng(3)

    def bordered(value: Any, scale: float, name: str) -> Any:
        integers = mb.quantize(input=value, scale=np.float32(scale), zero_point=np.uint8(0), output_dtype="uint8")
        return mb.dequantize(input=integers, scale=np.float32(scale), zero_point=np.uint8(0), name=name)

    def weights(shape: Sequence[int]) -> Any:
        integers = draw.integers(-127, 128, shape, np.int8)
        scale = draw.uniform(0.001, 0.003, shape[0]).astype(np.float32)
        return mb.constexpr_affine_dequantize(quantized_data=integers, zero_point=np.int8(0), scale=scale, axis=np.int32(0))

    x = bordered(x, 1, "pixels")
    bias = draw.normal(size=16).astype(np.float32)
    x = mb.conv(x=x, weight=weights((16, 3, 3, 3)), bias=bias, pad_type="custom", pad=[0, 0, 0, 0], name="conv1_sum")
    x = bordered(mb.relu(x=x), 1.5, "conv1")
    pool = mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[0, 1, 0, 1])
    x = bordered(pool, 1.5, "pool1")
    x = mb.conv(x=x, weight=weights((12, 16, 1, 1)), bias=np.zeros(12, np.float32), pad_type="valid", name="last_sum")
    x = bordered(mb.relu(x=x), 2.5, "fire2_squeeze1x1")
    return mb.reduce_mean(x=x, axes=[2, 3], keep_dims=False, name="logits")


def pixels(count: int, side: int = 8) -> Array:
    return np.random.default_rng(7).integers(0, 256, (count, side, side, 3), np.uint8)
