"""A graph in the making: layers whose scales are still apart from their weights, and which may be needed or not."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from squeeze_export.errors import BadInput
from squeeze_export.graph.nodes import Add, Concat, Conv, GlobalAveragePool, MaxPool, Node, Pads, Pair

Doubles = NDArray[np.float64]

INPUT, OUTPUT = "input", "logits"
NO_PADS: Pads = (0, 0, 0, 0)
MAX_WEIGHTS = 1 << 26
"""Of a whole network: as many as the largest file that is read can hold as float32."""
MAX_CHANNELS = 1 << 16
MAX_VALUES = 1 << 28
"""Of one map."""
MAX_NAME = 64
_RESERVED = (INPUT, OUTPUT, "pixels", "probabilities", "normalize", "image")
_SUFFIXES = ("weight", "bias", "float", "float32", "relu", "conv", "scale", "real", "nchw", "nhwc", "fp16", "uint8", "int8", "low")
"""Words that the targets put behind a layer's name."""


def _nothing() -> Doubles:
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class DraftLayer:
    """What makes a tensor: a node to be.

    Attributes:
        size: channels, height and width of what it makes.
        wish: the name that the file would give it.
        weight: of a convolution, (out, in, rows, columns) as the file holds it; shared, never written to.
        gain: (in,), by which its inputs are multiplied beforehand; None is 1.
        scale: (out,), by which weight and bias are multiplied afterwards.
        shift: (out,), the bias after that.
    """

    kind: Literal["pixels", "Conv", "MaxPool", "Concat", "Add"]
    inputs: tuple[str, ...]
    size: tuple[int, int, int]
    wish: str
    kernel: Pair = (1, 1)
    strides: Pair = (1, 1)
    pads: Pads = NO_PADS
    relu: bool = False
    weight: NDArray[Any] = field(default_factory=_nothing)
    gain: Doubles | None = None
    scale: Doubles = field(default_factory=_nothing)
    shift: Doubles = field(default_factory=_nothing)


class Draft:
    """Layers, each after those that it reads. The first is `input`.

    Attributes:
        layers: name -> layer. The names are made up.

    Args:
        name: of the file, for messages.
        size: channels, height and width of the input.
    """

    def __init__(self, name: str, size: tuple[int, int, int]) -> None:
        self._name = name
        self.layers: dict[str, DraftLayer] = {INPUT: DraftLayer("pixels", (), size, INPUT)}
        self._rectified: dict[str, str] = {}

    def add(self, layer: DraftLayer) -> str:
        """Puts a layer behind the others; its name."""
        if layer.size[0] > MAX_CHANNELS or math.prod(layer.size) > MAX_VALUES:
            sides = " x ".join(map(str, layer.size))
            raise BadInput(f"`{self._name}` makes a map of {sides} at `{layer.wish}`, which is too large")
        name = f"#{len(self.layers)}"
        self.layers[name] = layer
        return name

    def rectify(self, name: str) -> str:
        """The same layer with a ReLU. Behind a max-pool or a Concat it goes before these, back to what can hold one."""
        order, waiting = set[str](), [name]
        while waiting:
            at = waiting.pop()
            if at not in order and at not in self._rectified:
                order.add(at)
                waiting += self.layers[at].inputs if self.layers[at].kind in ("MaxPool", "Concat") else ()
        for at in [layer for layer in self.layers if layer in order]:
            layer = self.layers[at]
            if layer.kind in ("MaxPool", "Concat"):
                inputs = tuple(self._rectified[source] for source in layer.inputs)
                changed = layer if inputs == layer.inputs else replace(layer, inputs=inputs)
            else:
                changed = layer if layer.relu else replace(layer, relu=True)
            self._rectified[at] = at if changed is layer else self.add(changed)
            self._rectified[self._rectified[at]] = self._rectified[at]
        return self._rectified[name]

    def nodes(self, last: str) -> tuple[Node, ...]:
        """The nodes that the last one needs, under their final names."""
        needed = {last}
        for name in reversed(self.layers):
            if name in needed:
                needed.update(self.layers[name].inputs)
        kept = [name for name in self.layers if name in needed]
        if sum(self.layers[name].weight.size for name in kept) > MAX_WEIGHTS:
            raise BadInput(f"`{self._name}` has more than {MAX_WEIGHTS} weights, counting each use")
        names = _named({name: self.layers[name] for name in kept if name != INPUT}) | {INPUT: INPUT}
        nodes: list[Node] = []
        for name in kept:
            layer, called = self.layers[name], names[name]
            inputs = tuple(names[source] for source in layer.inputs)
            match layer.kind:
                case "Conv":
                    nodes.append(Conv(called, inputs[0], *self._rounded(layer, called), layer.strides, layer.pads, layer.relu))
                case "MaxPool":
                    nodes.append(MaxPool(called, inputs[0], layer.kernel, layer.strides, layer.pads))
                case "Concat":
                    nodes.append(Concat(called, inputs))
                case "Add":
                    nodes.append(Add(called, (inputs[0], inputs[1]), layer.relu))
        return (*nodes, GlobalAveragePool(OUTPUT, names[last]))

    def _rounded(self, layer: DraftLayer, called: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        weight = layer.weight.astype(np.float64) * layer.scale[:, None, None, None]
        if layer.gain is not None:
            weight *= layer.gain[:, None, None]
        with np.errstate(over="ignore"):
            result = np.ascontiguousarray(weight, np.float32), layer.shift.astype(np.float32)
        if not all(np.isfinite(values).all() for values in result):
            raise BadInput(f"`{self._name}` has weights of `{called}` that are not finite")
        return result


def _named(layers: Mapping[str, DraftLayer]) -> dict[str, str]:
    """A name for each layer that every format can hold: what the file calls it, as far as it is plain, and no two alike.

    Formats put words behind a layer's name for the tensors around it, and Core ML has nothing but letters, digits and `_`.
    """
    taken, names = set(_RESERVED), dict[str, str]()
    for at, layer in layers.items():
        plain = re.sub(r"[^A-Za-z0-9_./-]+", "_", layer.wish)[-MAX_NAME:].strip("./_-")
        plain = plain if plain[:1].isalpha() else f"{layer.kind.lower()}_{plain}".rstrip("_")
        name, count = plain, 1
        while (key := re.sub(r"\W", "_", name).lower()) in taken or key.rsplit("_", 1)[-1] in _SUFFIXES:
            count += 1
            name = f"{plain}_{count}"
        taken.add(key)
        names[at] = name
    return names
