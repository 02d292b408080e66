"""ONNX operators on constants: what an exporter left for the runtime to compute once, and the arithmetic of shapes.

https://onnx.ai/onnx/operators. Only what no image flows through is computed here, so nothing is large, and nothing may become so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Attributes = Mapping[str, Any]
Arrays = Sequence[NDArray[Any]]

MAX_ELEMENTS = 1 << 26
"""Of a result: as many as the largest file that is read can hold as float32."""


def evaluate(operator: str, inputs: Arrays, attributes: Attributes) -> NDArray[Any]:
    """A standard operator's first result.

    Args:
        operator: its type, such as `Mul`.
        inputs: its operands in order; an optional one that is left out is an empty array.
        attributes: as Python has them; tensors as arrays, `to` of a Cast as a numpy dtype.

    Raises:
        NotImplementedError: an operator that is not computed here.
        ValueError: operands that do not fit, or a result that would be too large.
    """
    compute = _OPERATORS.get(operator)
    if compute is None:
        raise NotImplementedError(operator)
    try:
        with np.errstate(all="ignore"):
            return np.asarray(compute(inputs, attributes))
    except (TypeError, IndexError, KeyError, OverflowError, MemoryError) as err:
        raise ValueError(str(err)) from err


def reshaped(dims: Sequence[int], wanted: Sequence[int], *, allow_zero: bool = False) -> tuple[int, ...]:
    """The dimensions that Reshape gives.

    Args:
        dims: the tensor's own.
        wanted: as Reshape has them: -1 is what remains, 0 the tensor's own at that place.
        allow_zero: whether a 0 is a 0.

    Raises:
        ValueError: they do not hold as many elements.
    """
    if any(want == 0 and not allow_zero and place >= len(dims) for place, want in enumerate(wanted)):
        raise ValueError(f"shape {list(wanted)} keeps a dimension that {list(dims)} has not")
    made = [dims[place] if want == 0 and not allow_zero else int(want) for place, want in enumerate(wanted)]
    known, count = math.prod(side for side in made if side != -1), math.prod(dims)
    if made.count(-1) == 1 and known > 0 and count % known == 0:
        made[made.index(-1)] = count // known
    if min(made, default=0) < 0 or math.prod(made) != count:
        raise ValueError(f"{list(dims)} does not fit the shape {list(wanted)}")
    return tuple(made)


def squeezed(dims: Sequence[int], axes: Sequence[int] | None) -> tuple[int, ...]:
    """The dimensions without those of one element: all of these, or those named.

    Raises:
        ValueError: an axis that is not there, or has more than one element.
    """
    gone = {place for place, side in enumerate(dims) if side == 1} if axes is None else _places(axes, len(dims))
    if any(dims[place] != 1 for place in gone):
        raise ValueError(f"the axes {list(axes or ())} of {list(dims)} cannot be taken out")
    return tuple(side for place, side in enumerate(dims) if place not in gone)


def unsqueezed(dims: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The dimensions with further ones of one element, which have the places `axes` afterwards.

    Raises:
        ValueError: an axis out of range.
    """
    rank = len(dims) + len(axes)
    added, rest = _places(axes, rank), iter(dims)
    return tuple(1 if place in added else next(rest) for place in range(rank))


def flattened(dims: Sequence[int], axis: int) -> tuple[int, int]:
    """The two dimensions that Flatten gives.

    Raises:
        ValueError: an axis out of range.
    """
    if not -len(dims) <= axis <= len(dims):
        raise ValueError(f"axis {axis} of {list(dims)}")
    axis = axis + len(dims) if axis < 0 else axis
    return math.prod(dims[:axis]), math.prod(dims[axis:])


def shape_of(dims: Sequence[int], attributes: Attributes) -> NDArray[np.int64]:
    """What Shape gives of a tensor with these dimensions: those from `start` to `end`, which count from the end where negative."""
    return np.array(dims[attributes.get("start", 0) : attributes.get("end", len(dims))], np.int64)


def _places(axes: Sequence[int], rank: int) -> set[int]:
    places = {int(axis) % rank for axis in axes if -rank <= axis < rank}
    if len(places) != len(axes):
        raise ValueError(f"axes {list(axes)} of {rank} dimensions")
    return places


def _bounded(shape: Sequence[int]) -> tuple[int, ...]:
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"a constant of {math.prod(shape)} elements")
    return tuple(int(side) for side in shape)


def _elementwise(compute: Callable[[Any, Any], Any]) -> Callable[[Arrays, Attributes], Any]:
    def result(inputs: Arrays, attributes: Attributes) -> Any:
        one, other = inputs
        _bounded(np.broadcast_shapes(one.shape, other.shape))
        return compute(one, other)

    return result


def _divide(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    if one.dtype.kind not in "iu":
        return np.asarray(one / other)
    if not other.all():
        raise ValueError("a division of integers by zero")
    return np.asarray(np.trunc(one / other).astype(one.dtype))


def _axes(inputs: Arrays, attributes: Attributes) -> Sequence[int] | None:
    """Axes as an attribute (until opset 12) or as the second operand."""
    if len(inputs) > 1 and inputs[1].size:
        return [int(axis) for axis in inputs[1].reshape(-1)]
    return attributes.get("axes")


def _constant(inputs: Arrays, attributes: Attributes) -> Any:
    for key, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in attributes:
            return np.array(attributes[key], dtype)
    return attributes["value"]


def _filled(inputs: Arrays, attributes: Attributes) -> Any:
    value = np.asarray(attributes.get("value", np.zeros(1, np.float32))).reshape(-1)[:1]
    return np.broadcast_to(value, _bounded([int(side) for side in inputs[0]])).copy()


def _joined(inputs: Arrays, attributes: Attributes) -> Any:
    _bounded([sum(operand.size for operand in inputs)])
    return np.concatenate(inputs, attributes["axis"])


def _gather(inputs: Arrays, attributes: Attributes) -> Any:
    values, indices = inputs
    _bounded([values.size, indices.size])
    return np.take(values, indices.astype(np.int64), attributes.get("axis", 0))


def _expanded(inputs: Arrays, attributes: Attributes) -> Any:
    values, shape = inputs
    return np.broadcast_to(values, _bounded(np.broadcast_shapes(values.shape, tuple(shape.tolist()))))


def _slice(inputs: Arrays, attributes: Attributes) -> Any:
    values, given = inputs[0], [[int(n) for n in operand.reshape(-1)] for operand in inputs[1:]]
    if len(inputs) == 1:  # until opset 9
        given = [list(attributes["starts"]), list(attributes["ends"]), list(attributes.get("axes", []))]
    starts, ends, axes, steps = [*given, [], []][:4]
    where = [slice(None)] * values.ndim
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (axes[place] if axes else place), (steps[place] if steps else 1)
        whole = step < 0 and end < -values.shape[axis]  # backwards to the first element: no number says so in Python
        where[axis] = slice(start, None if whole else end, step)
    return values[tuple(where)]


_OPERATORS: Mapping[str, Callable[[Arrays, Attributes], Any]] = {
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Identity": lambda inputs, _: inputs[0],
    "Dropout": lambda inputs, _: inputs[0],
    "Cast": lambda inputs, attributes: inputs[0].astype(attributes["to"]),
    "CastLike": lambda inputs, _: inputs[0].astype(inputs[1].dtype),
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(_divide),
    "Neg": lambda inputs, _: np.negative(inputs[0]),
    "Sqrt": lambda inputs, _: np.sqrt(inputs[0]),
    "Reciprocal": lambda inputs, _: 1 / inputs[0],
    "Reshape": lambda inputs, attributes: inputs[0].reshape(
        reshaped(inputs[0].shape, inputs[1].tolist(), allow_zero=bool(attributes.get("allowzero", 0)))
    ),
    "Flatten": lambda inputs, attributes: inputs[0].reshape(flattened(inputs[0].shape, attributes.get("axis", 1))),
    "Squeeze": lambda inputs, attributes: inputs[0].reshape(squeezed(inputs[0].shape, _axes(inputs, attributes))),
    "Unsqueeze": lambda inputs, attributes: inputs[0].reshape(unsqueezed(inputs[0].shape, _axes(inputs, attributes) or [])),
    "Transpose": lambda inputs, attributes: inputs[0].transpose(attributes.get("perm")),
    "Concat": _joined,
    "Expand": _expanded,
    "Gather": _gather,
    "Slice": _slice,
    "Shape": lambda inputs, attributes: shape_of(inputs[0].shape, attributes),
}
