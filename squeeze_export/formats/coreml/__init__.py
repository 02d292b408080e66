"""Core ML: an `.mlpackage` with one ML program, read without any of Apple's code. Of other tools' files, neural networks are read
too, in an `.mlpackage` or a `.mlmodel` file: see `neural_network`.

An ML program has no integer convolution. A package asks for one by `dequantize`, `conv`, `quantize`, with weights that are unpacked
from integers when the package is opened: QDQ form, see `formats.qdq`. Biases are always float. This reader shares nothing with
`targets.coreml` except the spelling of names.

Where activations are quantized, Apple says of int8 weights with one scale a channel or a tensor that they are multiplied as
integers. It does not say so of other weights: the audit cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from squeeze_export.core import TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.formats.audit import Arithmetic, Policy
from squeeze_export.formats.contents import FREE, MOST_UNPACKING, Contents, FileOperator, FileTensor
from squeeze_export.formats.coreml.classifier import read_classifier
from squeeze_export.formats.coreml.neural_network import (
    ML_PROGRAM,
    PRODUCTS,
    FloatLayers,
    faults,
    kind_of,
    network_contents,
    packed_weights,
)
from squeeze_export.formats.coreml.package import damage, program_package, read_model
from squeeze_export.formats.coreml.program import Operation, Program
from squeeze_export.formats.coreml.values import Constant, TensorType
from squeeze_export.formats.coreml.wire import Unread
from squeeze_export.formats.qdq import Groups, Words

NAME = "coreml"
SUFFIX = ".mlpackage"

_PAIR = ("quantize", "dequantize")
_PRODUCTS = frozenset({"conv", "conv_transpose", "linear", "matmul"})
_PALETTE = "constexpr_lut_to_dense"
_INTEGERS = frozenset({"int8", "uint8", "int4", *(f"uint{bits}" for bits in (1, 2, 3, 4, 6))})
_SPARSE_PALETTE = "constexpr_lut_to_sparse"
_UNPACKING: Mapping[str, int] = {
    "constexpr_affine_dequantize": 0,
    "constexpr_blockwise_shift_scale": 0,
    "constexpr_cast": 0,
    _PALETTE: 1,
    _SPARSE_PALETTE: 1,
    "constexpr_sparse_blockwise_shift_scale": 0,
    "constexpr_sparse_to_dense": 0,
}
"""The operators that unpack weights, and the place of the operand whose numbers become weights: a palette's are in its table."""
_PARAMETERS = ("int32", "uint32", "int64", "bool", "string")
"""Dtypes of strides, shapes, axes and names, which are not weights."""
_OPERANDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_PRODUCTS, ("x", "weight", "bias")),
    "matmul": ("x", "y"),
    **dict.fromkeys(_PAIR, ("input", "scale", "zero_point")),
    "constexpr_affine_dequantize": ("quantized_data", "scale", "zero_point"),
    "constexpr_blockwise_shift_scale": ("data", "scale", "offset"),
    _PALETTE: ("indices", "lut"),
    _SPARSE_PALETTE: ("indices_nonzero_data", "lut", "indices_mask"),
    "constexpr_sparse_blockwise_shift_scale": ("nonzero_data", "scale", "offset", "data_mask"),
    "constexpr_sparse_to_dense": ("nonzero_data", "mask"),
}
"""Operands in the order of `FileOperator.inputs`; the first two are required."""


def identifier(name: str) -> str:
    """A node's name as MIL spells it: `fire2/squeeze1x1` becomes `fire2_squeeze1x1`."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _kept_name(contents: Contents, place: int) -> str:
    """The name of a convolution's result, behind its ReLU and its quantization where it has them."""
    (made, *_) = contents.operators[place].outputs
    for kind in ("relu", "quantize", "dequantize"):
        readers = contents.readers_of(made)
        if len(readers) == 1 and readers[0][0].kind == kind:
            (made, *_) = readers[0][0].outputs
    return made.name


def _packing(contents: Contents, place: int) -> str:
    """How the weights of a product are stored where they are packed: `int8`, `int4 in blocks`, `4-bit lookup table of int8`."""
    operator = contents.operators[place]
    if contents.form:
        return packed_weights(operator)
    tensor, bits, blocks, sparse = operator.inputs[1], "", "", ""
    for _ in range(MOST_UNPACKING):
        maker = contents.maker(tensor)
        if maker is None or maker.kind not in _UNPACKING or len(maker.inputs) < 2:
            break
        if maker.kind in (_PALETTE, _SPARSE_PALETTE):
            bits = f"{maker.inputs[0].dtype.removeprefix('uint')}-bit lookup table"
        elif not bits and "shift_scale" in maker.kind and not maker.inputs[1].is_row:
            blocks = " in blocks"
        sparse = "sparse " if "sparse" in maker.kind else sparse
        tensor = maker.inputs[_UNPACKING[maker.kind]]
    if bits:
        return f"{sparse}{bits}" if tensor.floating else f"{sparse}{bits} of {tensor.dtype}"
    packed = tensor != operator.inputs[1] and not tensor.floating
    return f"{sparse}{tensor.dtype}{blocks}" if packed else ""


class _Program(Groups):
    """An ML program's `audit.Arithmetic`."""

    def doubts(self, place: int) -> list[str]:
        """See `audit.Arithmetic`."""
        if self.contents.operators[place].kind not in self.words.products or self.is_float(place):
            return []
        packing = _packing(self.contents, place)
        known = packing in ("", "int8")
        return [] if known else [f"its weights are {packing}, and Apple promises integer arithmetic of int8 alone"]


GROUPS = partial(
    _Program,
    words=Words(
        *_PAIR,
        frozenset({"relu"}),
        _PRODUCTS,
        frozenset({"max_pool", "avg_pool", "concat", "add", "mul", "relu", "transpose", "reshape"}),
        unpacking=_UNPACKING,
        unpacked=frozenset({"int8"}),
        float_bias=True,
    ),
)
"""An ML program's `audit.Arithmetic`, in which only int8 weights make an integer product."""


def _arithmetic(contents: Contents) -> Arithmetic:
    if contents.form:
        return FloatLayers(contents)
    groups = GROUPS(contents)
    return replace(groups, words=replace(groups.words, unpacked=_INTEGERS))  # and doubts those that are not int8


def _faults(contents: Contents, place: int) -> Iterable[str]:
    return faults(contents.operators[place]) if contents.form else ()


POLICY = Policy(
    arithmetic=_arithmetic,
    products=_PRODUCTS | PRODUCTS,
    convolution="conv",
    passing=frozenset({"relu", "max_pool", "concat", "add"}),
    borders=frozenset(_PAIR),
    preparing=frozenset({*_PAIR, "cast", "transpose", "reshape", "mul", "add", "sub"}),
    kept_name=_kept_name,
    spelt=identifier,
    float_bias=True,
    faults=_faults,
    packed=_packing,
)


def read(path: Path) -> Contents:
    """Everything in a package or a `.mlmodel` file; see `Format.read`. Of a model of a kind that is not read, there is nothing."""
    try:
        model = read_model(path)
        with damage():
            kind = kind_of(model.message)
            if kind != ML_PROGRAM:
                return network_contents(model.message, kind, model.metadata)
        return program_contents(program_package(model).program, model.metadata)
    except Unread as err:
        return Contents(NAME, (), (), (), opaque=(f"the model is not read: {err}",))
    except ValueError as err:
        raise BadInput(f"`{path}` is no Core ML package that can be read: {err}") from err


def describe(path: Path) -> tuple[TensorSpec, TensorSpec]:
    """Input and output; see `Format.describe`. Of a package that gives labels too, the output is the row of numbers."""
    try:
        found = read_classifier(path)
        pixels, given = found.pixels, found.program.types[found.result]
        if pixels.dtype != "float32" or given is None or given.element.name != "float32" or len(given.shape) != 2:
            raise ValueError(f"it takes {pixels.dtype} and gives `{given}`, not one row of float32 an image")
    except ValueError as err:
        raise BadInput(f"`{path}` is not a file of this tool: {err}") from err
    count = pixels.least if pixels.least == pixels.most else "N"
    shape = (count, pixels.height, pixels.width, pixels.channels)
    source = TensorSpec(pixels.name, shape, "float32", "NHWC")
    if pixels.image:
        source = TensorSpec(pixels.name, shape, "uint8", "NHWC", 1.0, 0)
    return source, TensorSpec(found.result, (count, given.shape[1] or "N"), "float32", "NC")


def program_contents(program: Program, metadata: Mapping[str, str]) -> Contents:
    """A program as operators and tensors. A `const` is no operator, and parameters such as strides are no inputs."""
    return _Reading(program, metadata).contents


class _Reading:
    """Converts one program to `Contents`."""

    def __init__(self, program: Program, metadata: Mapping[str, str]) -> None:
        self._tensors = {entry.name: _tensor(entry.name, entry.type) for entry in program.inputs}
        self._constants: list[FileTensor] = []
        operators = [self._operator(operation) for operation in program.operations if not self._is_stored(operation)]
        self.contents = Contents(
            NAME,
            tuple(operators),
            tuple(self._tensors[entry.name] for entry in program.inputs),
            tuple(self._tensors[name] for name in program.outputs),
            tuple(self._constants),
            metadata,
        )

    def _is_stored(self, operation: Operation) -> bool:
        """Whether an operation is a `const`; its constant is then added."""
        if operation.operator != "const":
            return False
        (value, *_), (made, *_) = operation.arguments.get("val", ("",)), operation.outputs
        if isinstance(value, str):
            raise ValueError(f"{operation} holds nothing")
        self._tensors[made.name] = _stored(_tensor(made.name, made.type), value)
        self._constants.append(self._tensors[made.name])
        return True

    def _operator(self, operation: Operation) -> FileOperator:
        bound = {key: tuple(self._inputs(operation, key)) for key in operation.arguments}
        bound = {key: tensors for key, tensors in bound.items() if tensors}
        known = _OPERANDS.get(operation.operator, ())
        order = [key for key in known if key in bound] + [key for key in bound if key not in known]
        outputs = tuple(_tensor(output.name, output.type) for output in operation.outputs)
        self._tensors.update((tensor.name, tensor) for tensor in outputs)
        inputs = tuple(tensor for key in order for tensor in bound[key])
        opaque = "it has operators inside" if operation.nested else ""
        if known and not opaque and (order[:2] != list(known[:2]) or len(inputs) > len(known) or not set(order) <= set(known)):
            opaque = f"it reads {', '.join(f'`{key}`' for key in order)}"
        return FileOperator(operation.operator, operation.name, inputs, outputs, opaque=opaque)

    def _inputs(self, operation: Operation, key: str) -> Iterator[FileTensor]:
        """The tensors of one argument, without parameters such as strides."""
        for index, entry in enumerate(operation.arguments[key]):
            if isinstance(entry, str):
                tensor = self._tensors[entry]
                if not (tensor.constant and tensor.dtype in _PARAMETERS):
                    yield tensor
            elif entry.dtype not in _PARAMETERS:
                stored = _tensor(f"{operation.name}.{key}", entry.type)
                dtype = _index_dtype(operation, entry) if operation.operator == _PALETTE and key == "indices" else entry.dtype
                place = (operation.name, key, index)
                self._constants.append(replace(_stored(stored, entry), dtype=dtype, place=place))
                yield self._constants[-1]


def _tensor(name: str, kind: TensorType | None) -> FileTensor:
    if kind is None:
        return FileTensor(name, "object", ())
    return FileTensor(name, kind.element.name, tuple(FREE if size is None else size for size in kind.shape))


def _stored(tensor: FileTensor, constant: Constant) -> FileTensor:
    size_bytes = 0 if constant.dtype in _PARAMETERS else constant.type.size_bytes
    return replace(tensor, constant=True, size_bytes=size_bytes, load=lambda: constant.array.tobytes())


def _index_dtype(palette: Operation, indices: Constant) -> str:
    """The dtype of a palette's indices. iOS 16 and 17 pack them into bytes; the palette's length tells the bits per index."""
    (table, *_) = palette.arguments.get("lut", ("",))
    shape = table.type.shape if isinstance(table, Constant) else ()
    return f"uint{(shape[0] - 1).bit_length()}" if len(shape) == 1 and shape[0] is not None and shape[0] > 1 else indices.dtype
