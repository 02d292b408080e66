"""An OpenVINO network asked by layer number: what is a float, and what a runtime can compute in integers."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cached_property

from squeeze_export.targets._openvino_file import Network

MOST_LEVELS = 256
PRODUCTS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul")
_MOVING = ("Concat", "MaxPool", "ReLU", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze")
"""Give no value that they did not read, or 0."""
_BELONGING = ("Add", "ReLU")
"""Belong to the product or the quantized tensors that they read, where a FakeQuantize comes behind."""
_BESIDE = ("Add", "Concat", "FakeQuantize", "MaxPool", "ReLU")
"""Multiply nothing; in float they may stand between layers kept in float."""
_WEIGHTS = ("int8", "uint8", "int4", "uint4")
_UNPACKING = ("Convert", "Divide", "Multiply", "Reshape", "Subtract", "Transpose", "Unsqueeze")
"""What may lie between stored weights and a product: it is computed once, when the file is opened."""
_ROUNDING_IN_FLOAT = "ceil_torch"
"""The `rounding_type` of a max-pool that OpenVINO computes in float, and the product behind it too. A converted torch network has
it; the other types stay in integers."""


class View:
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
            if layer.kind in PRODUCTS:
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

    def beside(self, products: Collection[int]) -> frozenset[int]:
        """Products, and the layers that multiply nothing and are joined to them by floats alone."""
        found, waiting = set(products), list(products)
        while waiting:
            number = waiting.pop()
            for other in (*self._inputs(number), *(reader for reader, _ in self._network.readers[number])):
                if other not in found and self._layers[other].kind in _BESIDE and self.is_float(other):
                    found.add(other)
                    waiting += [other] if self._layers[other].kind != "FakeQuantize" else []
        return frozenset(found)

    def belongs_to(self, number: int, numbers: Collection[int]) -> bool:
        """Whether nothing reads a constant but convolutions among `numbers`, as their weights, or sums of theirs, as the bias."""
        sides = sum(side > 1 for side in self._layers[number].outputs[0].shape)
        readers = self._network.readers[number]
        return bool(readers) and all(
            reader in numbers
            and (
                (self._layers[reader].kind == "Convolution" and operand == 1)
                or (self._layers[reader].kind == "Add" and sides <= 1 and self._adds_bias(reader))
            )
            for reader, operand in readers
        )

    def _adds_bias(self, number: int) -> bool:
        return any(self._layers[source].kind == "Convolution" for source in self._inputs(number))

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
