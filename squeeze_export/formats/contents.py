"""The operators and tensors of a file, the same for all formats. The audit and `lint` read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from squeeze_export.core import CHANNEL_COUNTS, TensorSpec
from squeeze_export.errors import BadInput

Attribute: TypeAlias = int | float | str | tuple[int, ...]

FREE = -1
"""A side of a shape that is open until the file runs."""
UNTOLD = (-2,)
"""The shape of a tensor of which the file tells not even the rank."""
MOST_UNPACKING = 32
"""Operators that are followed from a product to its stored weights. No tool writes nearly as many, and each product of a file may
read one chain of any length."""
UNKNOWN = "unknown"
"""The dtype of a tensor whose type the file does not say."""

SCHEME_KEY = "squeeze_export.scheme"
"""Metadata key: the scheme that a file of ours claims; the audit checks the claim."""
KEPT_FLOAT_KEY = "squeeze_export.kept_float"
"""Metadata key: a JSON list of the convolutions that the user kept in float, by their names in the graph."""
MAX_CHARACTERS = 100_000
"""A longer list is not read."""

_NO_FLOATS = ("int", "uint", "bool", "str", "object", "resource", "variant")


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a file.

    Attributes:
        name: in the file.
        dtype: numpy's name, or `UNKNOWN`. In `Format.listing` an ONNX tensor between QuantizeLinear and DequantizeLinear has the
            dtype of its integers.
        shape: sides, with `FREE` for an open one.
        constant: whether the file stores its values.
        scales: of its quantization: empty, one for the tensor, or one per channel.
        zero_points: as many as `scales`.
        values: of a small constant of integers, such as the axes of a mean; otherwise empty.
        numbers: of a constant of one row that the audit must know, such as the bounds of a FakeQuantize; otherwise empty.
        size_bytes: of a constant's stored values; 0 where they are parameters of an operator and not weights.
        place: identifies the tensor in a format whose names are not unique.
        storage: identifies the stored values in a format whose constants may share them.
        load: gives a constant's stored bytes; none where the reader does not have them. It raises OSError or ValueError where
            they are damaged.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    constant: bool = False
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    numbers: tuple[float, ...] = ()
    size_bytes: int = 0
    place: Hashable = None
    storage: Hashable = None
    load: Callable[[], bytes] = field(default=bytes, compare=False, repr=False)

    @property
    def key(self) -> Hashable:
        """Identifies the tensor in its file."""
        return self.name if self.place is None else self.place

    @property
    def floating(self) -> bool:
        """Whether its elements are floating-point numbers. An unknown dtype counts as floating."""
        return not self.dtype.startswith(_NO_FLOATS)

    @property
    def is_row(self) -> bool:
        """Whether it is one value, or one row of them, such as a scale or a bias."""
        return sum(side > 1 for side in self.shape) <= 1

    @property
    def spec(self) -> TensorSpec:
        """The tensor as a classifier's input. `layout` is empty where the shape is none of images."""
        shape = tuple("N" if side == FREE else side for side in self.shape)
        layout = ""
        if len(shape) == 4:
            layout = "NHWC" if shape[3] in CHANNEL_COUNTS else "NCHW" if shape[1] in CHANNEL_COUNTS else ""
        scale, zero_point = (1.0, 0) if self.dtype == "uint8" else (None, None)
        if self.scales:
            scale, zero_point = self.scales[0], self.zero_points[0]
        return TensorSpec(self.name, shape, self.dtype, layout, scale, zero_point)

    @property
    def row_spec(self) -> TensorSpec:
        """The tensor as a classifier's output: (N, classes), also where the file has sides of 1 beside them. `layout` is empty
        where it is no row of numbers.
        """
        batch, *sides = tuple("N" if side == FREE else side for side in self.shape) or ("N",)
        long = [side for side in sides if side != 1] or sides[:1]
        layout = "NC" if len(long) == 1 else ""
        shape = (batch, *long) if layout else (batch, *sides)
        scale, zero_point = (self.scales[0], self.zero_points[0]) if self.scales else (None, None)
        return TensorSpec(self.name, shape, self.dtype, layout, scale, zero_point)

    def __str__(self) -> str:
        """`float32[N,3,224,224]`; `float32` where the shape is `UNTOLD`."""
        sides = ",".join("N" if side == FREE else str(side) for side in self.shape)
        return self.dtype if self.dtype == UNKNOWN or self.shape == UNTOLD else f"{self.dtype}[{sides}]"


@dataclass(frozen=True)
class FileOperator:
    """An operator of a file. Constants are not operators, even where the format stores them as such.

    Attributes:
        kind: its type as the format spells it, such as `CONV_2D` or `Conv`, with the domain of a foreign operator:
            `com.microsoft:Conv`.
        name: its own name in formats that name operators, else the name of its first output.
        inputs: data first; then weights or a scale; then a bias or a zero point; then the rest, whatever order the format has.
            Omitted optional inputs are left out.
        outputs: what it makes.
        attributes: its parameters that are numbers, strings or lists of integers.
        opaque: why the audit cannot judge it: `a foreign operator`, `it has operators inside`; otherwise empty.
    """

    kind: str
    name: str
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    opaque: str = ""

    @property
    def data(self) -> tuple[FileTensor, ...]:
        """Its inputs and outputs without the constants."""
        return tuple(tensor for tensor in (*self.inputs, *self.outputs) if not tensor.constant)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True)
class Contents:
    """The contents of a file. A place is an operator's index in `operators`; a tensor is identified by its `key`.

    Attributes:
        target: its format.
        operators: in the file's order.
        inputs: of the network.
        outputs: of the network.
        constants: the stored tensors, in the file's order, read by an operator or not.
        metadata: key -> text, without duplicate keys.
        opaque: other things that the audit cannot judge, one sentence each.
        bodies: further graphs, run by some of the operators.
        form: what kind of network it is, in a format that has several; the audit says it of one without integers.
    """

    target: str
    operators: tuple[FileOperator, ...]
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    constants: tuple[FileTensor, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    opaque: tuple[str, ...] = ()
    bodies: tuple[Contents, ...] = ()
    form: str = ""

    @property
    def whole(self) -> Contents:
        """The contents with the bodies' operators and tensors added. No two tensors may have the same key."""
        parts = [self, *(body.whole for body in self.bodies)]
        return replace(
            self,
            operators=tuple(operator for part in parts for operator in part.operators),
            inputs=tuple(tensor for part in parts for tensor in part.inputs),
            outputs=tuple(tensor for part in parts for tensor in part.outputs),
            constants=tuple(tensor for part in parts for tensor in part.constants),
            bodies=(),
        )

    def classifier(self, path: Path, *, halves: bool = False) -> tuple[TensorSpec, TensorSpec]:
        """The input and output of an image classifier.

        Args:
            path: the file, for messages.
            halves: whether float16 is accepted too, which files of ours neither take nor give.

        Raises:
            BadInput: the file has other inputs and outputs than one tensor of images (RGB or grey) and one row of numbers for
                each, or their dtype is neither float32 nor that of pixels nor a quantized one.
        """
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            counts = f"`{len(self.inputs)}` inputs and `{len(self.outputs)}` outputs"
            raise BadInput(f"`{path}` has {counts}; a classifier has one of each")
        floats = ("float32", "float16") if halves else ("float32",)
        specs = self.inputs[0].spec, self.outputs[0].row_spec
        for verb, spec, layouts in (("takes", specs[0], ("NHWC", "NCHW")), ("gives", specs[1], ("NC",))):
            if spec.layout not in layouts or (spec.scale is None and spec.dtype not in floats):
                raise BadInput(f"`{path}` is no image classifier: it {verb} `{spec.dtype}` `{spec.shape}`")
        return specs

    @property
    def scheme(self) -> str:
        """The scheme that the file claims, or an empty string."""
        return self.metadata.get(SCHEME_KEY, "")

    @property
    def declared_float(self) -> tuple[str, ...]:
        """The convolutions that the file declares as kept in float; empty where the declaration is damaged."""
        text = self.metadata.get(KEPT_FLOAT_KEY, "")
        try:
            names = json.loads(text) if len(text) <= MAX_CHARACTERS else []
        except (ValueError, RecursionError):
            return ()
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()

    @cached_property
    def makers(self) -> Mapping[Hashable, int]:
        """Tensor's key -> the place of the operator that makes it."""
        return {tensor.key: place for place, operator in enumerate(self.operators) for tensor in operator.outputs}

    @cached_property
    def readers(self) -> Mapping[Hashable, list[tuple[int, int]]]:
        """Tensor's key -> (place, index of the input) of every operator that reads it. A tensor without readers has no entry."""
        found: dict[Hashable, list[tuple[int, int]]] = {}
        for place, operator in enumerate(self.operators):
            for index, tensor in enumerate(operator.inputs):
                found.setdefault(tensor.key, []).append((place, index))
        return found

    @cached_property
    def given(self) -> frozenset[Hashable]:
        """The keys of the network's outputs."""
        return frozenset(tensor.key for tensor in self.outputs)

    def maker(self, tensor: FileTensor) -> FileOperator | None:
        """The operator that makes a tensor; None for constants and the network's inputs."""
        place = self.makers.get(tensor.key)
        return None if place is None else self.operators[place]

    def readers_of(self, tensor: FileTensor) -> list[tuple[FileOperator, int]]:
        """The operators that read a tensor, each with the index of the input."""
        return [(self.operators[place], index) for place, index in self.readers.get(tensor.key, ())]

    def before(self, places: Iterable[int]) -> frozenset[int]:
        """The places of all operators whose results these depend on."""
        makers = self.makers
        return _reached(places, lambda place: (makers.get(tensor.key) for tensor in self.operators[place].inputs))

    def behind(self, places: Iterable[int]) -> frozenset[int]:
        """The places of all operators that depend on these."""
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
