"""A tensor in a file, known by name, shape and type before any of it is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
FLOAT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""The types that are read, and the bytes of a value."""


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        shape: OIHW for the weights of a convolution.
        dtype: as torch calls it (`float32`, `int64` ...), or what it is instead of a plain tensor (`sparse tensor` ...).
        read: gives the values as float32, contiguous. Only for a type in `FLOAT_BYTES`.

    Raises:
        BadInput: by `read`: the file does not hold the values that it claims.
    """

    shape: Shape
    dtype: str
    read: Callable[[], NDArray[np.float32]]

    @property
    def size_bytes(self) -> int:
        """Bytes of all values, for a type that is read."""
        return math.prod(self.shape) * FLOAT_BYTES[self.dtype]


def to_float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Values of a type in `FLOAT_BYTES` as float32, contiguous; bfloat16 comes as its 16 bits, unsigned."""
    if dtype == "bfloat16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and the graph refuses it by name
        return np.array(values, np.float32, order="C")
