"""Schemes, and the quantized graph: a network in integers. `table` writes it into a file and reads it back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatPart, Preprocess, TensorSpec
from squeeze_export.errors import BadInput, did_you_mean
from squeeze_export.graph.nodes import Conv, QuantizedConv, QuantizedNode, consumers_of, tensor_sizes


@dataclass(frozen=True)
class Scheme:
    """How numbers are carried.

    Attributes:
        name: part of the file name, the table and the report.
        integer: whether the convolutions compute in integers; False for the others.
        float_dtype: what the operators compute in where `integer` is False, and the dtype of weights where `weight_bits` is 0.
        activation_bits: of every activation tensor; 0 where they are floats.
        weight_bits: of every convolution's weights; 0 where they are floats. Without `palette` they are symmetric integers with
            one scale per output channel.
        palette: weights are indices into one table of floats a layer (k-means), 2 ** `weight_bits` entries.
        symmetric: activations are signed with zero point 0, so behind a ReLU half of the steps are left.
        integer_output: the average pool and the logits are integers too.
        per_tensor: a convolution's weights have one scale instead of one per output channel.
    """

    name: str
    integer: bool = False
    float_dtype: str = "float32"
    activation_bits: int = 0
    weight_bits: int = 0
    palette: bool = False
    symmetric: bool = False
    integer_output: bool = False
    per_tensor: bool = False

    @property
    def floats(self) -> FloatPart:
        """What a file of this scheme means to compute in floating point."""
        if not self.integer:
            return "all"
        return "none" if self.integer_output else "around the convolutions"

    @property
    def levels(self) -> int:
        """The largest integer of an activation: 255, or 65,535. The smallest is 0: a table carries all integers unsigned."""
        return (1 << self.activation_bits) - 1

    @property
    def middle(self) -> int:
        """What a signed format takes off an activation's integers and zero point: 128, or 32,768."""
        return 1 << (self.activation_bits - 1)


FP32 = Scheme("fp32")
FP16 = Scheme("fp16", float_dtype="float16")
INT8 = Scheme("int8", integer=True, activation_bits=8, weight_bits=8)
INT8_NPU = Scheme("int8-npu", integer=True, activation_bits=8, weight_bits=8, integer_output=True)
INT8_SYMMETRIC = Scheme("int8-symmetric", integer=True, activation_bits=8, weight_bits=8, symmetric=True)
INT8_PER_TENSOR = Scheme("int8-per-tensor", integer=True, activation_bits=8, weight_bits=8, per_tensor=True)
INT16X8 = Scheme("int16x8", integer=True, activation_bits=16, weight_bits=8, symmetric=True)
W8 = Scheme("w8", float_dtype="float16", weight_bits=8)
PALETTE8 = Scheme("palette8", float_dtype="float16", weight_bits=8, palette=True)
PALETTE6 = Scheme("palette6", float_dtype="float16", weight_bits=6, palette=True)
PALETTE4 = Scheme("palette4", float_dtype="float16", weight_bits=4, palette=True)
_INTEGER = (INT8, INT8_NPU, INT8_SYMMETRIC, INT8_PER_TENSOR, INT16X8)
_FLOAT = (W8, PALETTE8, PALETTE6, PALETTE4)
SCHEMES: Mapping[str, Scheme] = {scheme.name: scheme for scheme in (FP32, FP16, *_INTEGER, *_FLOAT)}

MIXED_SCHEMES = (INT8.name, INT8_PER_TENSOR.name)
"""In these a layer may be kept in float: the others are for hardware that has no floats, or for integers of their own kind."""


def scheme_named(name: str) -> Scheme:
    """Looks a scheme up.

    Raises:
        BadInput: there is no such scheme.
    """
    if name not in SCHEMES:
        raise BadInput(f"no scheme is called `{name}`", hint=did_you_mean(name, SCHEMES))
    return SCHEMES[name]


@dataclass(frozen=True)
class Quantization:
    """real = scale * (integer - zero_point); `scale` is an exact float32 value, integers are 0 to the scheme's `levels`."""

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class QuantizedGraph:
    """The network in integers, ready to be written into a format.

    A layer may be kept in float: it is a `Conv`, in the table's coordinates. What it reads may be integers, which it takes as the
    real values that they stand for, and so may what it makes.

    Attributes:
        name: the architecture's name.
        nodes: in topological order. A max-pool or a concatenation has integers on both sides or on none.
        input: raw pixels, uint8, scale 1, zero point 0.
        output: float32 logits, in a scheme of integer logits the real values of those.
        tensors: tensor name -> its quantization; a tensor that is not among them is a float: the logits, unless the scheme has
            them in integers, and what only layers kept in float touch. The input is raw pixels, scale 1 and zero point 0, in
            every scheme.
        scheme: how numbers are carried.
        preprocess: what brings a photograph to `input`.
        labels: one per class, or empty.
        provenance: recipe, seed, checkpoint hash, image hashes: who made it from what.
    """

    name: str
    nodes: tuple[QuantizedNode, ...]
    input: TensorSpec
    output: TensorSpec
    tensors: Mapping[str, Quantization]
    scheme: Scheme
    preprocess: Preprocess
    labels: tuple[str, ...]
    provenance: Mapping[str, Any]

    @cached_property
    def convs(self) -> tuple[QuantizedConv, ...]:
        """The convolutions in integers, in topological order."""
        return tuple(node for node in self.nodes if isinstance(node, QuantizedConv))

    @cached_property
    def kept_float(self) -> tuple[str, ...]:
        """The convolutions that compute in float, in topological order."""
        return tuple(node.name for node in self.nodes if isinstance(node, Conv))

    @cached_property
    def sizes(self) -> Mapping[str, tuple[int, int, int]]:
        """Tensor name -> (height, width, channels)."""
        return tensor_sizes(self.nodes, self.input)

    @cached_property
    def consumers(self) -> Mapping[str, tuple[QuantizedNode, ...]]:
        """Tensor name -> the nodes that read it."""
        return consumers_of(self.nodes)

    @property
    def checkpoint_sha256(self) -> str:
        """Of the checkpoint that the integers came from."""
        return str(self.provenance.get("checkpoint_sha256", ""))

    @cached_property
    def sha256(self) -> str:
        """Of the table's bytes, without the line in its header that holds this hash: the same integers have the same hash."""
        from squeeze_export.graph.table import table_bytes  # which knows this type

        return hashlib.sha256(table_bytes(self, checksum=False)).hexdigest()


def requantization(conv: QuantizedConv, tensors: Mapping[str, Quantization], real: Any = np.float32) -> NDArray[Any]:
    """Per output channel (s_x * s_w) / s_y, in float32 arithmetic as the runtimes do it, or in another dtype (`real`)."""
    scales: NDArray[Any] = real(tensors[conv.input].scale) * conv.weight_scale.astype(real) / real(tensors[conv.name].scale)
    return scales
