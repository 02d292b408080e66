"""A TFLite flatbuffer under construction: one subgraph of tensors, constants and operators, packed by the schema's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import require
from squeeze_export.graph.nodes import Pads, Pair

_ALIGNMENT = 16
"""The schema's `force_align` of constant data, which flatbuffers' generated Python code ignores."""


@dataclass(frozen=True)
class Steps:
    """How a tensor's integers map to reals: real = scale * (integer - zero_point).

    Attributes:
        scales: one, or one per index of the first axis.
        zero_points: as many.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]


class Writer:
    """Collects a model and packs it. Tensors and operators are numbered in the order of the calls, so the same calls give the same
    bytes.

    Args:
        description: the model's description.
    """

    def __init__(self, description: str) -> None:
        self.schema: Any = require("ai_edge_litert.schema_py_generated", "tflite")
        self._description = description
        self._buffers: list[Any] = [self.schema.BufferT()]  # buffer 0 is empty by definition: tensors without data point to it
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}

    def tensor(self, name: str, shape: Sequence[int], dtype: str, steps: Steps | None = None) -> int:
        """Adds a computed tensor. Returns its index.

        Args:
            name: unique in the file.
            shape: -1 for an open dimension, which is 1 until the runtime resizes it.
            dtype: numpy's name.
            steps: of a quantized tensor.
        """
        quantization = None
        if steps is not None:
            scale, zero_point = np.asarray(steps.scales, "<f4"), np.asarray(steps.zero_points, "<i8")
            quantization = self.schema.QuantizationParametersT(scale=scale, zeroPoint=zero_point)
        tensor = self.schema.TensorT(
            name=name,
            type=getattr(self.schema.TensorType, dtype.upper()),
            shape=[max(size, 1) for size in shape],
            shapeSignature=list(shape) if -1 in shape else None,
            hasRank=True,
            quantization=quantization,
        )
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, name: str, values: NDArray[Any], steps: Steps | None = None) -> int:
        """Adds a tensor with data, of any shape and any dtype of the schema. Returns its index."""
        index = self.tensor(name, values.shape, values.dtype.name, steps)
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        self._tensors[index].buffer = self._buffer(little.tobytes())
        return index

    def operator(
        self, kind: str, version: int, inputs: Sequence[int], output: int, options: tuple[str, Mapping[str, Any]] | None = None
    ) -> None:
        """Adds an operator.

        Args:
            kind: a name of `BuiltinOperator`.
            version: of the kernel, as TensorFlow's `op_version.cc` defines it.
            inputs: tensor indices.
            output: tensor index.
            options: the options class without its `T`, and its fields.
        """
        code = self._codes.setdefault((kind, version), len(self._codes))
        operator = self.schema.OperatorT(opcodeIndex=code, inputs=list(inputs), outputs=[output])
        if options is not None:
            name, fields = options
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
            operator.builtinOptions = getattr(self.schema, f"{name}T")(**fields)
        self._operators.append(operator)

    def pack(self, source: int, result: int, metadata: Mapping[str, bytes]) -> bytes:
        """The file, with the input tensor `source` and the output tensor `result`. `metadata`: name -> content."""
        schema, tensors = self.schema, self._tensors
        subgraph = schema.SubGraphT(name="main", tensors=tensors, operators=self._operators, inputs=[source], outputs=[result])
        signature = schema.SignatureDefT(
            signatureKey="serving_default",
            inputs=[schema.TensorMapT(name=tensors[source].name, tensorIndex=source)],
            outputs=[schema.TensorMapT(name=tensors[result].name, tensorIndex=result)],
        )
        model = schema.ModelT(
            version=3,
            description=self._description,
            operatorCodes=[self._code(kind, version) for kind, version in self._codes],
            subgraphs=[subgraph],
            signatureDefs=[signature],
            metadata=[schema.MetadataT(name=name, buffer=self._buffer(content)) for name, content in metadata.items()],
            buffers=self._buffers,
        )
        builder = require("flatbuffers", "tflite").Builder(1 << 21)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _buffer(self, content: bytes) -> int:
        self._buffers.append(_AlignedBuffer(self.schema, content))
        return len(self._buffers) - 1

    def _code(self, kind: str, version: int) -> Any:
        code = getattr(self.schema.BuiltinOperator, kind)
        # Old runtimes read the deprecated, narrower field.
        return self.schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=version)


class _AlignedBuffer:
    """Packs like `BufferT`, but aligns the data to 16 bytes and copies them in one piece."""

    def __init__(self, schema: Any, content: bytes) -> None:
        self._schema = schema
        self._content = content

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the schema's name
        count = len(self._content)
        builder.StartVector(1, count, _ALIGNMENT)
        builder.head -= count
        builder.Bytes[builder.head : builder.head + count] = self._content
        data = builder.EndVector()
        self._schema.BufferStart(builder)
        self._schema.BufferAddData(builder, data)
        return int(self._schema.BufferEnd(builder))


def padding_word(size: tuple[int, int, int], kernel: Pair, strides: Pair, pads: Pads) -> str | None:
    """`SAME` or `VALID` where it means these pads, else None. SAME gives ceil(size / stride) outputs, with the odd pixel of padding
    at the bottom and right. `size` is (height, width, channels) of the input.
    """
    if not any(pads):
        return "VALID"
    windows = zip(size, kernel, strides, strict=False)  # of the channels there is no window
    totals = [max((-(-side // stride) - 1) * stride + window - side, 0) for side, window, stride in windows]
    same = (totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2)
    return "SAME" if pads == same else None
