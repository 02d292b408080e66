"""OpenVINO networks: an XML file with the layers and a file with the weights. https://docs.openvino.ai, "OpenVINO IR format"

Sizes are limited, and document types are refused, because XML entities may grow without end or name other files.

An integer network is written on floats. A FakeQuantize says that a tensor takes one of 256 values. A runtime computes a product in
integers where its weights are stored as integers, or are floats behind a FakeQuantize, and its operand comes from a FakeQuantize or
is a scaled input of 8 bits, with only data movement between. The sum with the bias and the ReLU belong to the product, up to the
next FakeQuantize. The audit counts such a group as integer: the floats inside it are no float tensors. Scales, bounds and biases
are always float.

Which forms count was tried on OpenVINO 2026.4's CPU, whose runtime model tells the precision of each operator. Where devices
differ, as with weights that have a zero point, the audit says so instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import BinaryIO, NoReturn
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

import numpy as np

from squeeze_export.errors import BadInput
from squeeze_export.files import reading
from squeeze_export.formats.audit import Arithmetic, Policy
from squeeze_export.formats.contents import MOST_UNPACKING, Contents, FileOperator, FileTensor

NAME = "openvino"
SUFFIX = ".openvino"

MAX_XML_BYTES = 64 << 20
MAX_WEIGHT_BYTES = 1 << 30
MAX_NUMBERS = 1 << 20
"""The most values of rows, such as bounds, that are read of one file; the others stay unknown."""
SECTION = "squeeze_export"
"""The section of `rt_info` with this tool's metadata."""

_DTYPES: Mapping[str, str] = {
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"fp{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"i{bits}": f"int{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (1, 4, 8, 16, 32, 64)},
    "bf16": "bfloat16",
    "boolean": "bool",
}
"""The XML's names of types, in lower case -> numpy's. Ports say FP32 where constants say f32."""
_OPERANDS: Mapping[str, int] = {"Convert": 1, "FakeQuantize": 5, "Result": 1}
"""The fewest operands of the operators whose operands the audit looks at."""

_MOST_LEVELS = 256
_LEVELS = (15, 16, 255, 256)
"""Of a FakeQuantize that OpenVINO turns into integers; of weights, the last two."""
_CENTRED = 0.25
"""How far the zero of weights may lie from the integer 0, in steps: float16 bounds are off by a sixteenth, a zero point by 1/2."""
_PRODUCTS = frozenset({"Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul"})
_DEPTHWISE = ("GroupConvolution", "GroupConvolutionBackpropData")
"""Take steps of another size for each channel, which the other products do not."""
_MOVING = frozenset({
    "AvgPool", "Concat", "MaxPool", "Pad", "ReLU", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Give integers where they read some: mostly values that they read, or 0."""
_BELONGING = ("Add", "Clamp", "HSwish", "Multiply", "PReLU", "ReLU")
"""Are fused with the product or the quantized tensors that they read, where a FakeQuantize follows."""
_WITH_ROWS = ("Add", "Multiply", "PReLU")
"""Of these, the ones that read constants."""
_BYTES = ("int8", "uint8")
_WEIGHTS = (*_BYTES, "int4", "uint4")
_UNPACKING = ("Convert", "Divide", "Multiply", "Reshape", "Subtract", "Transpose", "Unsqueeze")
"""May stand between stored weights and a product: a runtime computes them once, when it opens the file."""
_ZERO_POINT = "have a zero point, which some devices compute in float"
_ROUNDING_IN_FLOAT = "ceil_torch"
"""The `rounding_type` of a max-pool that OpenVINO computes in float, with the product behind it. Networks converted from torch have
it; the other types stay in integers."""


def read(path: Path) -> Contents:
    """Everything in the network of a folder or an `.xml` file; see `Format.read`. OpenVINO is not needed."""
    xml, weights = _files(path)
    with reading(path):
        weight_bytes = weights.stat().st_size
        if xml.stat().st_size > MAX_XML_BYTES or weight_bytes > MAX_WEIGHT_BYTES:
            most = f"{MAX_XML_BYTES >> 20} MiB of XML and {MAX_WEIGHT_BYTES >> 20} MiB of weights"
            raise BadInput(f"`{path}` is larger than {most}, the most that is read of an OpenVINO network")
        text = xml.read_bytes()
    try:
        root = _parsed(text)
        with reading(path), weights.open("rb") as file:
            layers, names = _layers(root, weight_bytes, _Rows(file))
    except (expat.ExpatError, ParseError, LookupError, TypeError, ValueError) as err:
        raise BadInput(f"`{xml}` is not a sound OpenVINO network: {' '.join(str(err).split())}") from err
    inputs = (layer.outputs[0] for layer in layers if layer.kind == "Parameter")
    outputs = (layer.inputs[0] for layer in layers if layer.kind == "Result")
    return Contents(
        NAME,
        tuple(layer for layer in layers if layer.kind not in ("Const", "Parameter", "Result")),
        tuple(replace(tensor, name=names[tensor.key]) for tensor in inputs),
        tuple(replace(tensor, name=names[tensor.key]) for tensor in outputs),
        tuple(layer.outputs[0] for layer in layers if layer.kind == "Const"),
        _metadata(root),
    )


def _files(path: Path) -> tuple[Path, Path]:
    """The XML file and the weights file of a folder, or of an `.xml` file. Other files may lie beside them.

    Raises:
        BadInput: there is no folder, not exactly one network in it, or no `.bin` file beside the `.xml` file.
    """
    if path.suffix == ".xml" and not path.is_dir():
        if not path.with_suffix(".bin").is_file():
            raise BadInput(f"`{path}` has no weights: `{path.with_suffix('.bin').name}` is not beside it")
        return path, path.with_suffix(".bin")
    try:
        found = sorted(file for file in path.iterdir() if file.suffix == ".xml")
    except OSError as err:
        raise BadInput(f"`{path}` cannot be read as a folder: {err.strerror or err}") from err
    if len(found) != 1 or not found[0].with_suffix(".bin").is_file():
        raise BadInput(f"`{path}` does not hold one network: one `.xml` file with its `.bin`")
    return found[0], found[0].with_suffix(".bin")


def _parsed(text: bytes) -> Element:
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> NoReturn:
        raise ValueError("it declares a document type")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(text, True)
    return builder.close()


def _metadata(root: Element) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for entry in root.iterfind(f"rt_info/{SECTION}/*"):
        found.setdefault(f"{SECTION}.{entry.tag}", []).append(entry.attrib.get("value", ""))
    return {key: texts[0] for key, texts in found.items() if len(texts) == 1}


class _Rows:
    """Reads constants of one row, up to `MAX_NUMBERS` values."""

    def __init__(self, weights: BinaryIO) -> None:
        self._weights, self._left = weights, MAX_NUMBERS

    def of(self, constant: FileTensor, offset: int) -> tuple[float, ...]:
        """The values; empty where they are too many or of a type that numpy lacks."""
        count = math.prod(constant.shape)
        readable = constant.is_row and constant.dtype in ("float16", "float32", "float64", *_BYTES)
        if not readable or count > self._left or count * np.dtype(constant.dtype).itemsize != constant.size_bytes:
            return ()
        self._left -= count
        self._weights.seek(offset)
        return tuple(np.frombuffer(self._weights.read(constant.size_bytes), constant.dtype).tolist())

    def loader(self, offset: int, size_bytes: int) -> Callable[[], bytes]:
        """Gives a constant's bytes, also when the file is closed again."""
        path = Path(self._weights.name)

        def load() -> bytes:
            with path.open("rb") as weights:
                weights.seek(offset)
                return weights.read(size_bytes)

        return load


def _layers(root: Element, weight_bytes: int, rows: _Rows) -> tuple[list[FileOperator], dict[Hashable, str]]:
    """All layers, with constants, inputs and results, as operators in the order of the run, and the tensors' own names by key.
    Inside the operators a tensor has the name of its layer.

    Raises:
        LookupError, ValueError: the network is damaged.
    """
    if root.tag != "net":
        raise ValueError(f"it holds a `{root.tag}`")
    entries = {int(entry.attrib["id"]): entry for entry in root.iterfind("layers/layer")}
    outputs: dict[int, tuple[FileTensor, ...]] = {}
    made: dict[tuple[int, int], FileTensor] = {}  # (layer, port) that gives a tensor
    names: dict[Hashable, str] = {}
    for number, entry in entries.items():
        ports = entry.findall("output/port")
        outputs[number] = tuple(_tensor(entry, port, (number, index), weight_bytes, rows) for index, port in enumerate(ports))
        for port, tensor in zip(ports, outputs[number], strict=True):
            made[number, int(port.attrib["id"])] = tensor
            names[tensor.key] = next(filter(None, port.attrib.get("names", "").split(",")), tensor.name)
    edges = {
        (int(edge.attrib["to-layer"]), int(edge.attrib["to-port"])): (
            int(edge.attrib["from-layer"]),
            int(edge.attrib["from-port"]),
        )
        for edge in root.iterfind("edges/edge")
    }
    sources = {
        number: [edges[number, int(port.attrib["id"])] for port in entry.iterfind("input/port")]
        for number, entry in entries.items()
    }
    layers = {
        number: _layer(entry, tuple(made[place] for place in sources[number]), outputs[number]) for number, entry in entries.items()
    }
    order = TopologicalSorter({number: [layer for layer, _ in places] for number, places in sources.items()})
    return [layers[number] for number in order.static_order()], names


def _layer(entry: Element, inputs: tuple[FileTensor, ...], outputs: tuple[FileTensor, ...]) -> FileOperator:
    """A layer as an operator, with the operands and attributes that the audit relies on."""
    name, kind, attributes = entry.attrib["name"], entry.attrib["type"], _attributes(entry)
    if len(inputs) < _OPERANDS.get(kind, 0) or (kind in ("Const", "Parameter") and not outputs):
        raise ValueError(f"{kind} {name} has too few operands or results")
    if kind == "FakeQuantize" and int(attributes["levels"]) < 2:
        raise ValueError(f"{name} has {attributes['levels']} levels")
    opaque = "" if re.fullmatch(r"opset\d+", entry.attrib["version"]) else "a foreign operator"
    if any(child.tag.endswith("body") for child in entry):
        opaque = "it has operators inside"
    return FileOperator(kind, name, inputs, outputs, attributes, opaque)


def _attributes(entry: Element) -> dict[str, str]:
    data = entry.find("data")
    return {} if data is None else dict(data.attrib)


def _tensor(entry: Element, port: Element, place: tuple[int, int], weight_bytes: int, rows: _Rows) -> FileTensor:
    """A layer's result, under the layer's name."""
    name, dtype = entry.attrib["name"], port.attrib["precision"].lower()
    shape = tuple(int(dim.text or 0) for dim in port.iterfind("dim"))
    tensor = FileTensor(name, _DTYPES.get(dtype, dtype), shape, place=place)
    if entry.attrib["type"] != "Const":
        return tensor
    offset, size_bytes = (int(_attributes(entry)[key]) for key in ("offset", "size"))
    if not 0 <= offset <= offset + size_bytes <= weight_bytes:
        raise ValueError(f"the constant {name} lies outside the weights")
    stored = rows.loader(offset, size_bytes)
    tensor = replace(tensor, constant=True, size_bytes=size_bytes, storage=(offset, size_bytes), load=stored)
    return replace(tensor, numbers=rows.of(tensor, offset))


class _Steps(Arithmetic):
    """The network's `audit.Arithmetic`. Operators come in the order of the run, so one pass forwards or backwards answers each
    question about all of them.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents, self._operators = contents, contents.operators

    def is_float(self, place: int) -> bool:
        """See `audit.Arithmetic`."""
        if place in self._constant or place in self._integer:
            return False
        operator = self._operators[place]
        return any(tensor.floating for tensor in (*operator.inputs, *operator.outputs))

    def reasons(self, place: int) -> list[str]:
        """See `audit.Arithmetic`."""
        found = list[str]()
        for tensor in self._operators[place].inputs:
            if not self._is_constant(tensor):
                places = self._quantized | self._by_channel if self._operators[place].kind in _DEPTHWISE else self._quantized
                if not self._made_in(tensor, places):
                    found.append(f"its input `{tensor.name}` is not quantized to {_MOST_LEVELS} steps of one size")
            elif reason := self._weights(tensor)[0]:
                found.append(f"its weights `{tensor.name}` {reason}")
            elif found:
                found.append("its weights alone are integers")
        return found

    def doubts(self, place: int) -> list[str]:
        """See `audit.Arithmetic`."""
        operator = self._operators[place]
        if operator.kind not in _PRODUCTS or place not in self._integer:
            return []
        weights = ((tensor, self._weights(tensor)[1]) for tensor in operator.inputs if self._is_constant(tensor))
        return [f"its weights `{tensor.name}` {doubt}" for tensor, doubt in weights if doubt]

    def takes_parameter(self, place: int, index: int) -> bool:
        """See `audit.Arithmetic`: a FakeQuantize's bound, or an integer product's bias or scale; one value, or one per channel."""
        operator = self._operators[place]
        if not operator.inputs[index].is_row:
            return False
        return place in self._parameters or self._takes_directly(place, index)

    def rounds(self, place: int, index: int) -> bool:
        """See `audit.Arithmetic`: weights that a FakeQuantize reads, directly or converted to another float type."""
        operator = self._operators[place]
        if place not in self._constant or index > 0:
            return False
        readers = [(self._operators[r], i) for tensor in operator.outputs for r, i in self._contents.readers.get(tensor.key, ())]
        converted = bool(readers) and all(reader.kind == "FakeQuantize" and i == 0 for reader, i in readers)
        return operator.kind == "FakeQuantize" or (operator.kind == "Convert" and converted)

    def _weights(self, tensor: FileTensor) -> tuple[str, str]:
        """Why a product cannot take these weights as integers, and why that depends on the device; else empty."""
        doubt = ""
        for _ in range(MOST_UNPACKING):
            if tensor.constant:
                break
            operator = self._operators[self._contents.makers[tensor.key]]
            if operator.kind == "FakeQuantize":
                levels = int(str(operator.attributes["levels"]))
                if levels not in _LEVELS[2:]:
                    return f"are quantized to {levels} steps, not to {_MOST_LEVELS}", ""
                return "", doubt or self._off_centre(operator, levels)
            if operator.kind not in _UNPACKING:
                break
            tensor = max(operator.inputs, key=lambda operand: math.prod(operand.shape))
            if operator.kind == "Subtract":
                shifts = [number for operand in operator.inputs if operand is not tensor for number in self._numbers(operand)]
                doubt = doubt if shifts and not any(shifts) else _ZERO_POINT
        else:
            return "", f"lie behind more than {MOST_UNPACKING - 1} operators"
        if not tensor.constant or tensor.dtype not in _WEIGHTS:
            return "are not stored as integers", ""
        if tensor.dtype not in _BYTES:
            return "", "have 4 bits, which few devices multiply as integers"
        return "", _ZERO_POINT if tensor.dtype == "uint8" else doubt

    def _off_centre(self, quantize: FileOperator, levels: int) -> str:
        """Why the steps of weights may not be integers times a scale: 0 is none of them, or another one than 0."""
        low, high = (np.array(self._numbers(bound)) for bound in quantize.inputs[3:5])
        if not len(low) or not len(high):
            return "have bounds that cannot be read"
        step = (high - low) / (levels - 1)
        centred = (step > 0) & (np.abs(low + levels // 2 * step) < _CENTRED * step)
        return "" if centred.all() else _ZERO_POINT

    def _numbers(self, tensor: FileTensor) -> tuple[float, ...]:
        """The values of a constant row, converted or not; empty where they are unknown."""
        for _ in range(MOST_UNPACKING):
            maker = self._contents.maker(tensor)
            if maker is None or maker.kind != "Convert":
                break
            tensor = maker.inputs[0]
        return tensor.numbers

    def _made_in(self, tensor: FileTensor, places: frozenset[int] | set[int]) -> bool:
        return self._contents.makers.get(tensor.key) in places

    def _is_constant(self, tensor: FileTensor) -> bool:
        """Whether a tensor does not depend on the image."""
        return tensor.constant or self._made_in(tensor, self._constant)

    @cached_property
    def _constant(self) -> frozenset[int]:
        """Operators whose result does not depend on the image."""
        found: set[int] = set()
        for place, operator in enumerate(self._operators):
            if operator.inputs and all(tensor.constant or self._made_in(tensor, found) for tensor in operator.inputs):
                found.add(place)
        return frozenset(found)

    def _flowing(self, operator: FileOperator) -> list[FileTensor]:
        """An operator's inputs that depend on the image."""
        return [tensor for tensor in operator.inputs if not self._is_constant(tensor)]

    @cached_property
    def _quantized(self) -> frozenset[int]:
        """Operators whose result takes at most 256 values: FakeQuantize, pixels with a scale, and what only moves these values."""
        found: set[int] = set(self._scaled)
        for place, operator in enumerate(self._operators):
            inputs = self._flowing(operator)
            if operator.kind == "FakeQuantize":
                fits = self._is_steady(operator) and all(math.prod(bound.shape) == 1 for bound in operator.inputs[1:])
            else:
                moving = operator.kind in _MOVING and operator.attributes.get("rounding_type") != _ROUNDING_IN_FLOAT
                fits = moving and bool(inputs) and all(self._made_in(tensor, found) for tensor in inputs)
            if fits:
                found.add(place)
        return frozenset(found)

    @cached_property
    def _by_channel(self) -> frozenset[int]:
        """FakeQuantizes whose steps have another size for each channel, which only depthwise products read."""
        found: set[int] = set()
        for place, operator in enumerate(self._operators):
            if operator.kind == "FakeQuantize" and place not in self._quantized and self._is_steady(operator):
                readers = self._contents.readers_of(operator.outputs[0])
                if readers and all(reader.kind in _DEPTHWISE and index == 0 for reader, index in readers):
                    found.add(place)
        return frozenset(found)

    def _is_steady(self, quantize: FileOperator) -> bool:
        """Whether a FakeQuantize of the data has bounds that do not depend on the image, and a number of steps that is taken."""
        steady = all(self._is_constant(bound) and bound.is_row for bound in quantize.inputs[1:])
        return bool(self._flowing(quantize)) and steady and int(str(quantize.attributes["levels"])) in _LEVELS

    @cached_property
    def _scaled(self) -> frozenset[int]:
        """Operators that make numbers of an input of 8 bits: Convert, a shift and one scale, in any order."""
        raw: set[int] = set()
        found: set[int] = set()
        given = {tensor.key for tensor in self._contents.inputs if tensor.dtype in _BYTES}
        for place, operator in enumerate(self._operators):
            inputs, first = self._flowing(operator), operator.inputs[:1]
            constants = [tensor for tensor in operator.inputs if tensor not in inputs]
            if operator.kind == "Convert" and operator.inputs[0].key in given:
                raw.add(place)
            elif len(inputs) == 1 and len(constants) == 1 and (operator.kind in ("Add", "Multiply") or first == (inputs[0],)):
                single = math.prod(constants[0].shape) == 1
                if operator.kind in ("Add", "Subtract") and constants[0].is_row:
                    raw |= {place} if self._made_in(inputs[0], raw) else set()
                    found |= {place} if self._made_in(inputs[0], found) else set()
                elif operator.kind in ("Divide", "Multiply") and single and self._made_in(inputs[0], raw):
                    found.add(place)
        return frozenset(found)

    @cached_property
    def _unpacking(self) -> frozenset[int]:
        """Operators that turn such constants into weights; their largest operand is the constant."""
        found: set[int] = set()
        for place, operator in enumerate(self._operators):
            if place in self._constant and operator.kind in _UNPACKING:
                largest = max(operator.inputs, key=lambda tensor: math.prod(tensor.shape))
                if (largest.constant and largest.dtype in _WEIGHTS) or self._made_in(largest, found):
                    found.add(place)
        return frozenset(found)

    @cached_property
    def _quantized_next(self) -> frozenset[int]:
        """Operators whose result only FakeQuantize reads, directly or behind sums and ReLUs."""
        found: set[int] = set()
        for place in reversed(range(len(self._operators))):
            outputs = self._operators[place].outputs
            readers = [reader for tensor in outputs for reader in self._contents.readers.get(tensor.key, ())]
            given = any(tensor.key in self._contents.given for tensor in outputs)
            if readers and not given and all(self._quantizes(reader, index, found) for reader, index in readers):
                found.add(place)
        return frozenset(found)

    def _quantizes(self, reader: int, index: int, found: set[int]) -> bool:
        return (
            reader in found
            if self._operators[reader].kind in _BELONGING
            else index == 0 and (reader in self._quantized or reader in self._by_channel)
        )

    @cached_property
    def _integer(self) -> frozenset[int]:
        """Operators that compute in integers: products, what is fused with them up to a FakeQuantize, and data movement."""
        found: set[int] = set()
        for place, operator in enumerate(self._operators):
            inputs = self._flowing(operator)
            grouped = bool(inputs) and all(self._made_in(t, found) or self._made_in(t, self._quantized) for t in inputs)
            if operator.kind in _PRODUCTS:
                fits = not self.reasons(place)
            elif operator.kind == "Convert":
                fits = not operator.inputs[0].floating and place in self._quantized_next
            elif operator.kind == "ReduceMean":
                fits = all(self._made_in(tensor, self._quantized) for tensor in inputs) and place in self._quantized_next
            elif operator.kind in _BELONGING and place not in self._quantized:
                fits = grouped and place in self._quantized_next and (operator.kind == "Add" or len(inputs) == 1)
            else:
                fits = grouped and (place in self._quantized or place in self._by_channel)
            if fits:
                found.add(place)
        return frozenset(found)

    @cached_property
    def _parameters(self) -> frozenset[int]:
        """Constant operators whose result is only read as such a parameter."""
        found: set[int] = set()
        for place in reversed(range(len(self._operators))):
            readers = [r for tensor in self._operators[place].outputs for r in self._contents.readers.get(tensor.key, ())]
            if place in self._constant and readers and all(r in found or self._takes_directly(r, index) for r, index in readers):
                found.add(place)
        return frozenset(found)

    def _takes_directly(self, place: int, index: int) -> bool:
        operator = self._operators[place]
        if operator.kind == "FakeQuantize":
            return index > 0
        if operator.kind in _WITH_ROWS and place not in self._constant:
            return place in self._integer or any(self._made_in(tensor, self._integer) for tensor in operator.inputs)
        if operator.kind == "Pad":
            return index == 3 and place in self._integer
        return place in self._unpacking


POLICY = Policy(
    arithmetic=_Steps,
    products=_PRODUCTS,
    convolution="Convolution",
    passing=frozenset({"Add", "Concat", "MaxPool", "ReLU"}),
    borders=frozenset({"FakeQuantize"}),
    preparing=frozenset({"Add", "Convert", "Divide", "FakeQuantize", "Multiply", "Reshape", "Subtract", "Transpose"}),
    kept_name=lambda contents, place: contents.operators[place].name.removesuffix("/product"),
    bias_sum="Add",
)
