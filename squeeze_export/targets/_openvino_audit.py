"""What is inside an OpenVINO network: which operators compute in integers, and what was left in float. Read from the files alone.

An integer network is written on floats. A FakeQuantize says that a tensor takes one of 256 values; a runtime computes a product
in integers where its operand comes out of such a FakeQuantize, with nothing between that makes other values, and its weights are
stored as integers. The sum with the bias and the ReLU behind it belong to it as far as the next FakeQuantize. Such a group counts
as integer here; the notional floats inside it do not count as float tensors. Scales, bounds and biases are floats in this format:
they are allowed, as nothing else is.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from squeeze_export.core import Audit
from squeeze_export.targets._openvino_file import Layer, Network, read_network

MOST_LEVELS = 256

_PRODUCTS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul")
_MOVING = ("Concat", "MaxPool", "ReLU", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze")
"""Give no value that they did not read, or 0."""
_BELONGING = ("Add", "ReLU")
"""Belong to the product or the quantized tensors that they read, where a FakeQuantize comes behind."""
_WEIGHTS = ("int8", "uint8", "int4", "uint4")
_UNPACKING = ("Convert", "Divide", "Multiply", "Reshape", "Subtract", "Transpose", "Unsqueeze")
"""What may lie between stored weights and a product: it is computed once, when the file is opened."""
_STEPPING = ("Convert", "FakeQuantize", "Reshape", "Transpose")
"""May stand in float before the first product: they bring the input's floats to integers."""
_ROUNDING_IN_FLOAT = "ceil_torch"
"""The `rounding_type` of a max-pool that OpenVINO computes in float, and the product behind it too. A converted torch network has
it; the other types stay in integers."""


def audit_network(path: Path) -> Audit:
    """Takes stock of a network.

    Args:
        path: its folder, or its `.xml` file with the `.bin` beside it.

    Returns:
        The audit. `violations` name each product that computes in float and why, each constant stored in float that is no scale,
        bound or bias, each float operator before the last product, and what cannot be seen through.

    Raises:
        BadInput: there is no sound OpenVINO network.
    """
    network = read_network(path)
    view = _View(network)
    operators = [layer for layer in network.layers.values() if layer.kind not in ("Const", "Parameter", "Result")]
    floating = [layer for number, layer in network.layers.items() if view.is_float(number)]
    inputs = [layer for layer in network.layers.values() if layer.kind == "Parameter" and layer.outputs[0].floating]
    stored = [network.layers[number] for number in view.float_constants]
    constants = {
        (layer.attributes["offset"], layer.attributes["size"]): layer.outputs[0].dtype
        for layer in network.layers.values()
        if layer.kind == "Const"
    }
    weight_bytes: Counter[str] = Counter()
    for (_, size), dtype in constants.items():
        weight_bytes[dtype] += int(size)
    return Audit(
        operators=dict(sorted(Counter(layer.kind for layer in operators).items())),
        float_operators=tuple(f"{layer.kind} {layer.name}" for layer in floating),
        float_tensors=tuple(
            f"{layer.name} {output}" for layer in (*inputs, *stored, *floating) for output in layer.outputs if output.floating
        ),
        violations=tuple(_violations(view, network.layers)),
        weight_bytes=dict(sorted(weight_bytes.items())),
    )


def _violations(view: _View, layers: Mapping[int, Layer]) -> Iterator[str]:
    products = {number for number, layer in layers.items() if layer.kind in _PRODUCTS}
    if not products:
        yield "the file holds no convolution"
    before, behind = _ahead_of(layers, products), _following(layers, products)
    for number, layer in layers.items():
        if layer.nested or not re.fullmatch(r"opset\d+", layer.opset):
            yield f"{layer.kind} `{layer.name}` cannot be seen through: a foreign operator or one with a network inside"
        elif number in products:
            reasons = view.reasons(number)
            if reasons:
                yield f"{layer.kind} `{layer.name}` computes in float: {', '.join(reasons)}"
        elif number in before and view.is_float(number) and (layer.kind not in _STEPPING or number in behind):
            yield f"{layer.kind} `{layer.name}` computes in float before the last convolution"
    for number in view.float_constants:
        yield f"the constant `{layers[number].name}` is stored as {layers[number].outputs[0]}"


def _ahead_of(layers: Mapping[int, Layer], numbers: set[int]) -> set[int]:
    """The layers whose results reach one of `numbers`."""
    found: set[int] = set()
    for number in reversed(list(layers)):
        if number in found or number in numbers:
            found.update(source for source, _ in layers[number].sources)
    return found


def _following(layers: Mapping[int, Layer], numbers: set[int]) -> set[int]:
    """The layers that one of `numbers` reaches."""
    found: set[int] = set()
    for number, layer in layers.items():
        if any(source in found or source in numbers for source, _ in layer.sources):
            found.add(number)
    return found


class _View:
    """A network, asked by layer number. Every question about all layers is answered in one walk along them or back."""

    def __init__(self, network: Network) -> None:
        self._network, self._layers = network, network.layers

    @cached_property
    def _constant(self) -> frozenset[int]:
        """Layers that give the same for every image."""
        found: set[int] = set()
        for number, layer in self._layers.items():
            if layer.kind == "Const" or (layer.sources and all(source in found for source, _ in layer.sources)):
                found.add(number)
        return frozenset(found)

    def _inputs(self, number: int) -> list[int]:
        """The layers that a layer reads, without the constant ones."""
        return [source for source, _ in self._layers[number].sources if source not in self._constant]

    @cached_property
    def _quantized(self) -> frozenset[int]:
        """Layers whose result takes at most 256 values, by a FakeQuantize and what only moves values behind it."""
        found: set[int] = set()
        for number, layer in self._layers.items():
            inputs = self._inputs(number)
            if layer.kind == "FakeQuantize":
                bounds = [source for source, _ in layer.sources[1:]]
                steady = all(source in self._constant and self._count(source) == 1 for source in bounds)
                if inputs and steady and int(layer.attributes["levels"]) <= MOST_LEVELS:
                    found.add(number)
            elif layer.kind in _MOVING and inputs and found.issuperset(inputs):
                found |= {number} if layer.attributes.get("rounding_type") != _ROUNDING_IN_FLOAT else set()
        return frozenset(found)

    def reasons(self, number: int) -> list[str]:
        """Why a runtime cannot compute a product in integers; empty where it can."""
        layers, found = self._layers, list[str]()
        for source, _ in layers[number].sources:
            if source not in self._constant:
                if source not in self._quantized:
                    found.append(f"its input `{layers[source].name}` is not quantized to {MOST_LEVELS} steps")
            elif source not in self._packed:
                found.append(f"its weights `{layers[source].name}` are not stored as integers")
        return found

    @cached_property
    def _packed(self) -> frozenset[int]:
        """Constants that are integers of at most 8 bits, behind scales and conversions: the largest operand counts."""
        found: set[int] = set()
        for number, layer in self._layers.items():
            if layer.kind == "Const" and layer.outputs[0].dtype in _WEIGHTS:
                found.add(number)
            elif layer.kind in _UNPACKING and number in self._constant:
                found |= {number} if max((source for source, _ in layer.sources), key=self._count) in found else set()
        return frozenset(found)

    def _count(self, number: int) -> int:
        return math.prod(self._layers[number].outputs[0].shape)

    @cached_property
    def _quantized_next(self) -> frozenset[int]:
        """Layers whose result nothing reads but FakeQuantize, or sums and ReLUs of which the same is true."""
        found: set[int] = set()
        for number in reversed(list(self._layers)):
            readers = self._network.readers[number]
            if readers and all(
                reader in found if self._layers[reader].kind in _BELONGING else reader in self._quantized and operand == 0
                for reader, operand in readers
            ):
                found.add(number)
        return frozenset(found)

    @cached_property
    def _integer(self) -> frozenset[int]:
        """Layers that compute in integers: products, what belongs to them as far as a FakeQuantize, and what only moves."""
        found: set[int] = set()
        for number, layer in self._layers.items():
            inputs = self._inputs(number)
            grouped = bool(inputs) and all(source in found or source in self._quantized for source in inputs)
            if layer.kind in _PRODUCTS:
                fits = not self.reasons(number)
            elif layer.kind == "Convert":
                fits = not self._network.source(layer).floating and number in self._quantized_next
            elif layer.kind in _BELONGING and number not in self._quantized:
                fits = grouped and number in self._quantized_next
            else:
                fits = grouped and number in self._quantized
            if fits:
                found.add(number)
        return frozenset(found)

    def is_float(self, number: int) -> bool:
        """Whether a layer computes in floating point for every image."""
        layer = self._layers[number]
        if layer.kind in ("Parameter", "Result") or number in self._constant or number in self._integer:
            return False
        touched = [*layer.outputs, *(self._network.source(layer, operand) for operand in range(len(layer.sources)))]
        return any(tensor.floating for tensor in touched)

    @cached_property
    def float_constants(self) -> list[int]:
        """The constants in float that are more than a scale, bound or bias: those have one number, or one a channel."""
        constants = {number: layer.outputs[0] for number, layer in self._layers.items() if layer.kind == "Const"}
        return [
            number
            for number, tensor in constants.items()
            if tensor.floating and (number not in self._parameters or sum(side > 1 for side in tensor.shape) > 1)
        ]

    @cached_property
    def _parameters(self) -> frozenset[int]:
        """Constants that nothing reads but as a FakeQuantize's bound, an integer product's bias or the scale of integers."""
        found: set[int] = set()
        for number in reversed(list(self._layers)):
            readers = self._network.readers[number] if number in self._constant else []
            if readers and all(reader in found or self._takes_parameters(reader, operand) for reader, operand in readers):
                found.add(number)
        return frozenset(found)

    def _takes_parameters(self, number: int, operand: int) -> bool:
        layer = self._layers[number]
        if layer.kind == "FakeQuantize":
            return operand > 0
        if layer.kind == "Add":
            return any(source in self._integer for source in self._inputs(number))
        return number in self._packed
