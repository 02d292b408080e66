"""What a file consists of, whatever its format: operators, and the tensors that they read and make. For the audit and `lint`."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from squeeze_export.core import TensorSpec
from squeeze_export.errors import BadInput

Attribute: TypeAlias = int | float | str | tuple[int, ...]

FREE = -1
"""A side of a shape that is not known before the file is run."""
UNKNOWN = "unknown"
"""The dtype of a tensor whose type cannot be told from the file."""

SCHEME_KEY = "squeeze_export.scheme"
"""In every format's own metadata: the scheme that a file of ours says it is of, and is held to."""
KEPT_FLOAT_KEY = "squeeze_export.kept_float"
"""Likewise: a JSON list of the convolutions that were kept in float on request, under the names that the graph has for them."""
MAX_CHARACTERS = 100_000
"""The most that is read of such a list."""

_NO_FLOATS = ("int", "uint", "bool", "str", "object", "resource", "variant")


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a file.

    Attributes:
        name: in the file.
        dtype: numpy's name of what is stored or handed on, or `UNKNOWN`; in `Format.listing` of an ONNX tensor between
            QuantizeLinear and DequantizeLinear, that of the integers.
        shape: sides, `FREE` for one that is not fixed.
        constant: whether the file holds its values.
        scales: of its quantization: none where it has none, one a tensor, or one a channel.
        zero_points: as many.
        values: of a constant of few elements, such as the axes of a mean; empty otherwise.
        size_bytes: of a constant's values as they are stored; 0 where they are no weights but an operator's parameters.
        place: what tells the tensor apart from the file's others, where its name does not.
        storage: where its values lie, for a format in which several constants may share them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    constant: bool = False
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    size_bytes: int = 0
    place: Hashable = None
    storage: Hashable = None

    @property
    def key(self) -> Hashable:
        """What tells it apart from the file's other tensors."""
        return self.name if self.place is None else self.place

    @property
    def floating(self) -> bool:
        """Whether its elements are floating-point numbers, or may be: what cannot be shown to be an integer is none."""
        return not self.dtype.startswith(_NO_FLOATS)

    @property
    def spec(self) -> TensorSpec:
        """The tensor as a classifier's input or output. Its layout is empty where the shape tells none."""
        shape = tuple("N" if side == FREE else side for side in self.shape)
        layout = "NC" if len(shape) == 2 else ""
        if len(shape) == 4:
            layout = "NHWC" if shape[3] == 3 else "NCHW" if shape[1] == 3 else ""
        scale, zero_point = (1.0, 0) if self.dtype == "uint8" else (None, None)
        if self.scales:
            scale, zero_point = self.scales[0], self.zero_points[0]
        return TensorSpec(self.name, shape, self.dtype, layout, scale, zero_point)

    def __str__(self) -> str:
        """`float32[N,3,224,224]`."""
        sides = ",".join("N" if side == FREE else str(side) for side in self.shape)
        return self.dtype if self.dtype == UNKNOWN else f"{self.dtype}[{sides}]"


@dataclass(frozen=True)
class FileOperator:
    """An operator of a file. Constants are none, whatever the format calls them.

    Attributes:
        kind: its type, in the format's own words: `CONV_2D`, `Conv`; of an operator from elsewhere with its origin:
            `com.microsoft:Conv`.
        name: its own in formats that name operators, else that of what it makes first.
        inputs: what it reads: data first; then weights, or a scale; then a bias, or a zero point. Optional ones that are left out
            are no part of it.
        outputs: what it makes.
        attributes: its parameters, as far as they are numbers, words or lists of numbers.
        opaque: why it cannot be seen through; empty where it can: `a foreign operator`, `it has operators inside`.
    """

    kind: str
    name: str
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    opaque: str = ""

    @property
    def data(self) -> tuple[FileTensor, ...]:
        """What flows through it: all that it reads and makes but constants."""
        return tuple(tensor for tensor in (*self.inputs, *self.outputs) if not tensor.constant)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True)
class Contents:
    """What a file holds. An operator is asked for by its place in `operators`, a tensor by its `key`.

    Attributes:
        target: its format.
        operators: in the order in which the file has them.
        inputs: what the file takes.
        outputs: what it gives.
        constants: what it stores, in its order, whether an operator reads it or not.
        metadata: what the file says of itself: key -> text, without keys that are there twice.
        opaque: what else in it cannot be seen through, one sentence each.
        bodies: further graphs, which some of its operators run.
    """

    target: str
    operators: tuple[FileOperator, ...]
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    constants: tuple[FileTensor, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    opaque: tuple[str, ...] = ()
    bodies: tuple[Contents, ...] = ()

    @property
    def whole(self) -> Contents:
        """The same with the bodies' operators and tensors among its own. Their tensors must have places that differ."""
        parts = [self, *(body.whole for body in self.bodies)]
        return replace(
            self,
            operators=tuple(operator for part in parts for operator in part.operators),
            inputs=tuple(tensor for part in parts for tensor in part.inputs),
            outputs=tuple(tensor for part in parts for tensor in part.outputs),
            constants=tuple(tensor for part in parts for tensor in part.constants),
            bodies=(),
        )

    def classifier(self, path: Path) -> tuple[TensorSpec, TensorSpec]:
        """The input and output of an image classifier.

        Args:
            path: the file, for messages.

        Raises:
            BadInput: it does not take one tensor of RGB images and give one row of numbers each, in uint8, float32 or integers
                with a scale.
        """
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            counts = f"`{len(self.inputs)}` inputs and `{len(self.outputs)}` outputs"
            raise BadInput(f"`{path}` has {counts}; a classifier has one of each")
        specs = self.inputs[0].spec, self.outputs[0].spec
        for verb, spec, layouts in (("takes", specs[0], ("NHWC", "NCHW")), ("gives", specs[1], ("NC",))):
            if spec.layout not in layouts or (spec.scale is None and spec.dtype != "float32"):
                raise BadInput(f"`{path}` is no image classifier: it {verb} `{spec.dtype}` `{spec.shape}`")
        return specs

    @property
    def scheme(self) -> str:
        """The scheme that the file says it is of; empty where it says none."""
        return self.metadata.get(SCHEME_KEY, "")

    @property
    def declared_float(self) -> tuple[str, ...]:
        """The convolutions of which the file says that they were kept in float; none where that cannot be read: it excuses nothing
        then.
        """
        text = self.metadata.get(KEPT_FLOAT_KEY, "")
        try:
            names = json.loads(text) if len(text) <= MAX_CHARACTERS else []
        except (ValueError, RecursionError):
            return ()
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()

    @cached_property
    def makers(self) -> Mapping[Hashable, int]:
        """Tensor -> the operator that makes it."""
        return {tensor.key: place for place, operator in enumerate(self.operators) for tensor in operator.outputs}

    @cached_property
    def readers(self) -> Mapping[Hashable, list[tuple[int, int]]]:
        """Tensor -> every operator that reads it, and which of its inputs it is there. What nothing reads is not in it."""
        found: dict[Hashable, list[tuple[int, int]]] = {}
        for place, operator in enumerate(self.operators):
            for index, tensor in enumerate(operator.inputs):
                found.setdefault(tensor.key, []).append((place, index))
        return found

    @cached_property
    def given(self) -> frozenset[Hashable]:
        """The tensors that the file gives."""
        return frozenset(tensor.key for tensor in self.outputs)

    def maker(self, tensor: FileTensor) -> FileOperator | None:
        """The operator that makes a tensor; None of a constant and of what the file takes."""
        place = self.makers.get(tensor.key)
        return None if place is None else self.operators[place]

    def readers_of(self, tensor: FileTensor) -> list[tuple[FileOperator, int]]:
        """The operators that read a tensor, and which of their inputs it is."""
        return [(self.operators[place], index) for place, index in self.readers.get(tensor.key, ())]

    def before(self, places: Iterable[int]) -> frozenset[int]:
        """The operators whose results reach some of these."""
        makers = self.makers
        return _reached(places, lambda place: (makers.get(tensor.key) for tensor in self.operators[place].inputs))

    def behind(self, places: Iterable[int]) -> frozenset[int]:
        """The operators that some of these reach."""
        readers = self.readers
        return _reached(
            places, lambda place: (r for tensor in self.operators[place].outputs for r, _ in readers.get(tensor.key, ()))
        )


def _reached(places: Iterable[int], beside: Callable[[int], Iterable[int | None]]) -> frozenset[int]:
    found: set[int] = set()
    waiting = list(places)
    while waiting:
        new = {place for place in beside(waiting.pop()) if place is not None} - found
        found |= new
        waiting += new
    return frozenset(found)
