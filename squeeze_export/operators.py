"""What a file consists of, whatever its format: operators, and the tensors that they read and make. `targets` read it, `lint`
looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Attribute: TypeAlias = int | float | str | tuple[int, ...]

FREE = -1
"""A side of a shape that is not known before the file is run."""


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a file.

    Attributes:
        name: in the file.
        dtype: numpy's name of what is stored or handed on: of an ONNX tensor between QuantizeLinear and DequantizeLinear, that of
            the integers.
        shape: sides, `FREE` for one that is not fixed.
        constant: whether the file holds its values.
        scales: of its quantization: none where it has none, one a tensor, or one a channel.
        zero_points: as many.
        values: of a constant of few elements, such as the axes of a mean; empty otherwise.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    constant: bool = False
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    values: tuple[int, ...] = ()

    @property
    def floating(self) -> bool:
        """Whether its elements are floating-point numbers."""
        return "float" in self.dtype

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class FileOperator:
    """An operator of a file.

    Attributes:
        kind: its type, in the format's own words: `CONV_2D`, `Conv`.
        name: of what it makes first.
        inputs: what it reads; optional ones that are left out are no part of it.
        outputs: what it makes.
        attributes: its parameters, as far as they are numbers, words or lists of numbers.
    """

    kind: str
    name: str
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    @property
    def data(self) -> tuple[FileTensor, ...]:
        """What flows through it: all that it reads and makes but constants."""
        return tuple(tensor for tensor in (*self.inputs, *self.outputs) if not tensor.constant)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True)
class Contents:
    """A file's operators.

    Attributes:
        target: its format.
        operators: in the order in which the file has them.
        inputs: what the file takes.
        outputs: what it gives.
    """

    target: str
    operators: tuple[FileOperator, ...]
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
