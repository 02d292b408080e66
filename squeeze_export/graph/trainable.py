"""The run with gradients: a quantized graph in torch, forward the integers of `integer`, backward as if nothing were rounded.

Integers are carried as float32, which holds them, and sums of products up to 2^24, exactly. Where a value is rounded the gradient
passes unchanged, where it is clamped the gradient is 0: the straight-through estimator (Bengio, Leonard, Courville,
arXiv:1308.3432) as Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, section 3, use it. Weights and biases can be trained, and so can scales of activations (Esser et al., "Learned Step Size
Quantization", ICLR 2020: the gradient is what the same estimator gives); scales of weights stay what the table says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from squeeze_export.core import ByteArray, require
from squeeze_export.graph.nodes import Add, Concat, MaxPool, QuantizedConv, QuantizedNode
from squeeze_export.graph.quantized import QuantizedGraph, requantization
from squeeze_export.graph.torch_network import convolve, padded

if TYPE_CHECKING:
    from torch import Tensor

Growths: TypeAlias = "Mapping[str, Tensor]"
"""Tensor name -> a 0-d tensor, trained: the natural logarithm of what its scale is multiplied by. The tensors of a scale group have
one in common; a tensor without one keeps its scale."""

LARGEST_INTEGER = 255
LARGEST_BIAS = 2**30
"""Half of what int32 holds, so that a sum of products still fits beside it."""


@dataclass(frozen=True, eq=False)
class Shadow:
    """What is trained of one convolution.

    Attributes:
        conv: the convolution that training started from.
        weight: (O, I, k, k) float32, trained: in steps of the weight scale; rounded it is the integers.
        shift: (O,) float32, trained: added to the bias, in steps of the output's scale.
        bias: (O,) float64, the bias that training started from.
        multiplier: (O,) float32, s_x * s_w / s_y.
        limit: the largest magnitude of an integer weight.
    """

    conv: QuantizedConv
    weight: Tensor
    shift: Tensor
    bias: Tensor
    multiplier: Tensor
    limit: int


def shadows_of(quantized: QuantizedGraph, limits: Mapping[str, int] | None = None) -> dict[str, Shadow]:
    """The trainable copy of every convolution, by its name; it starts at the table's integers.

    Args:
        quantized: of a scheme with 8-bit activations, no layer kept in float.
        limits: convolution -> the largest magnitude of its integer weights, 1 to 127; what the table has beyond it, it may keep.
            Not needed where weights are not trained.

    Raises:
        Unavailable: torch is not installed.
    """
    torch = require("torch", "torch")
    found = {}
    for conv in quantized.convs:
        found[conv.name] = Shadow(
            conv,
            torch.from_numpy(conv.weight.astype(np.float32)).requires_grad_(),
            torch.zeros(len(conv.bias)).requires_grad_(),
            torch.from_numpy(conv.bias.astype(np.float64)),
            torch.from_numpy(requantization(conv, quantized.tensors)),
            max(limits[conv.name] if limits else 0, int(np.abs(conv.weight.astype(np.int16)).max())),
        )
    return found


def integers_of(quantized: QuantizedGraph, shadows: Mapping[str, Shadow], growths: Growths | None = None) -> QuantizedGraph:
    """The quantized graph with the trained integers and scales; all else stays."""
    growths = growths or {}
    nodes: list[QuantizedNode] = []
    for node in quantized.nodes:
        if isinstance(node, QuantizedConv):
            shadow = shadows[node.name]
            weight = _weight(shadow).detach().numpy().astype(np.int8)
            bias = _bias(shadow, growths.get(node.input)).detach().numpy().astype(np.int32)
            nodes.append(replace(node, weight=weight, bias=bias))
        else:
            nodes.append(node)
    scales = {
        name: float(np.float32(quantized.tensors[name].scale * float(growth.detach().exp()))) for name, growth in growths.items()
    }
    tensors = {name: replace(q, scale=scales.get(name, q.scale)) for name, q in quantized.tensors.items()}
    return replace(quantized, nodes=tuple(nodes), tensors=tensors)


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """While open, torch gives the same bits for the same arguments; what was set before is put back.

    Args:
        threads: torch's intra-op threads; sums depend on them in their last bits.
    """
    torch = require("torch", "torch")
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(before)


def to_tensor(pixels: ByteArray) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 of the same values, channels last in memory."""
    torch = require("torch", "torch")
    values: Tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
    return values


def integer_logits(
    quantized: QuantizedGraph, shadows: Mapping[str, Shadow], pixels: Tensor, growths: Growths | None = None
) -> Tensor:
    """Runs the integers with gradients.

    Args:
        quantized: what the shadows were made from.
        shadows: by convolution.
        pixels: (N, 3, H, W) float32, 0 to 255.
        growths: of the scales that are trained.

    Returns:
        logits (N, classes) float32: those of `graph.integer.IntegerRunner`, to the rounding of the average pool, which has no
        integers here.
    """
    import torch
    from torch.nn import functional

    growths = growths or {}
    values = {quantized.input.name: pixels}

    def scale(name: str) -> Any:
        held = quantized.tensors[name].scale
        return held * growths[name].exp() if name in growths else held

    for node in quantized.nodes:
        source = values[node.inputs[0]]
        if isinstance(node, QuantizedConv):
            centred = source - _zero(quantized, node.input)
            values[node.name] = _conv(shadows[node.name], centred, _zero(quantized, node.name), growths)
        elif isinstance(node, MaxPool):
            values[node.name] = functional.max_pool2d(padded(source, node.pads), node.kernel, node.strides)
        elif isinstance(node, Concat):
            values[node.name] = torch.cat([values[name] for name in node.inputs], 1)
        elif isinstance(node, Add):
            real = [(values[name] - _zero(quantized, name)) * scale(name) for name in node.inputs]
            zero = _zero(quantized, node.name)
            values[node.name] = _rescale()((real[0] + real[1]) / scale(node.name), zero, zero if node.relu else 0.0)
        else:
            values[node.name] = (source.mean(dim=(2, 3)) - _zero(quantized, node.input)) * scale(node.input)
    return values[quantized.output.name]


def _conv(shadow: Shadow, centred: Tensor, zero: float, growths: Growths) -> Tensor:
    conv, multiplier = shadow.conv, shadow.multiplier
    acc = convolve(centred, _weight(shadow), None, conv.strides, conv.pads)
    acc = acc + _bias(shadow, growths.get(conv.input)).float()[:, None, None]
    if conv.input in growths:
        multiplier = multiplier * growths[conv.input].exp()
    if conv.name in growths:
        multiplier = multiplier / growths[conv.name].exp()
    result: Tensor = _rescale()(acc * multiplier[:, None, None], zero, zero if conv.relu else 0.0)
    return result


def _weight(shadow: Shadow) -> Tensor:
    """The integers, as float32."""
    integers: Tensor = _round()(shadow.weight.clamp(-shadow.limit, shadow.limit))
    return integers


def _bias(shadow: Shadow, growth: Tensor | None) -> Tensor:
    """The integers, as float64: float32 does not hold every int32. Where the input's scale grows, fewer steps are as much."""
    moved = shadow.bias + shadow.shift.double() / shadow.multiplier.double()
    if growth is not None:
        moved = moved / growth.double().exp()
    integers: Tensor = _round()(moved.clamp(-LARGEST_BIAS, LARGEST_BIAS))
    return integers


def _zero(quantized: QuantizedGraph, name: str) -> float:
    return float(quantized.tensors[name].zero_point)


@lru_cache(maxsize=1)
def _round() -> Any:
    """Half to even, with the gradient of the identity."""
    import torch

    class Round(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Tensor) -> Tensor:
            return values.round()

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return gradients[0]

    return Round.apply


@lru_cache(maxsize=1)
def _rescale() -> Any:
    """clamp(round_half_even(y) + zero, low, 255); the gradient passes where y lies between the clamps."""
    import torch

    class Rescale(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Tensor, zero: float, low: float) -> Tensor:
            ctx.save_for_backward((values > low - zero) & (values < LARGEST_INTEGER - zero))
            return values.round().add_(zero).clamp_(low, LARGEST_INTEGER)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            (inside,) = ctx.saved_tensors
            return gradients[0] * inside, None, None

    return Rescale.apply
