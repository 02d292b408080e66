"""ONNX files: one protobuf message of limited size. https://onnx.ai/onnx/repo-docs/IR.html"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import require
from squeeze_export.errors import BadInput
from squeeze_export.files import read_bounded, reading
from squeeze_export.formats.audit import Policy
from squeeze_export.formats.contents import FREE, UNKNOWN, Attribute, Contents, FileOperator, FileTensor
from squeeze_export.formats.qdq import Groups, Words

NAME = "onnx"
SUFFIX = ".onnx"

MAX_BYTES = 256 << 20
MAX_VALUES = 16
"""The most elements of a constant that `FileTensor.values` holds."""

_STANDARD = ("", "ai.onnx")
_MICROSOFT = "com.microsoft"
"""ONNX Runtime's own operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md"""
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_ACTIVATIONS = frozenset({"Relu", "Clip"})
"""A runtime fuses them into the operator before them where integers follow."""


def _of_microsoft(*names: str) -> frozenset[str]:
    return frozenset(f"{_MICROSOFT}:{name}" for name in names)


_MULTIPLYING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}) | _of_microsoft("FusedConv", "FusedGemm", "FusedMatMul")
_DYNAMIC = _of_microsoft("DynamicQuantizeMatMul", "MatMulIntegerToFloat")
_INTEGER_PRODUCTS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}) | _of_microsoft(
    "QLinearConv", "QGemm"
)
_INTEGERS = _INTEGER_PRODUCTS | _of_microsoft(
    "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul",
    "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
)  # fmt: skip
"""ONNX Runtime's QOperator format, and ONNX's own operators of that kind."""
_KNOWN = _MULTIPLYING | _DYNAMIC | _INTEGERS
_BYTES = ("int8", "uint8")
_QGEMM_ZERO_POINT = 8
"""Input of QGemm with the zero point of its result; without it the result is float32."""


def _faults(contents: Contents, place: int) -> Iterator[str]:
    operator = contents.operators[place]
    if operator.kind == "DynamicQuantizeLinear" or operator.kind in _DYNAMIC:
        yield f"{operator.kind} `{operator.name}`: a dynamic-range file, its activations are quantized while it runs"


POLICY = Policy(
    arithmetic=partial(
        Groups,
        words=Words(
            "QuantizeLinear",
            "DequantizeLinear",
            _ACTIVATIONS,
            _MULTIPLYING,
            frozenset({
                "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Concat", "Add", "Mul", *_ACTIVATIONS, "LeakyRelu",
                "Sigmoid", "Softmax", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Identity", "Slice",
                "Split", "Gather", "Pad", "Resize",
            }),
            integers=_INTEGERS,
            rounding=True,
            float_bias=True,  # ONNX Runtime 1.31 quantizes it when it opens the file, and TensorRT's files have no other
        )
    ),
    products=_MULTIPLYING | _DYNAMIC | _INTEGER_PRODUCTS,
    convolution="Conv",
    passing=frozenset({"Add", "Concat", "MaxPool", "Relu"}),
    borders=frozenset(_PAIR),
    preparing=frozenset({"Sub", "Div", "Mul", "Add", "Pad"}),
    converting=frozenset({*_PAIR, "Cast", "Transpose", "Reshape"}),
    delivering=frozenset({"DequantizeLinear"}),
    kept_name=lambda contents, place: contents.operators[place].name,
    float_bias=True,
    faults=_faults,
)  # fmt: skip


def read(path: Path) -> Contents:
    """Everything in an ONNX file; see `Format.read`. Names are optional in ONNX: a node without one has its first result's."""
    return opened(path).contents


def listing(path: Path) -> Contents:
    """Its operators; see `Format.listing`. QuantizeLinear and DequantizeLinear only tell which integers carry their neighbours'
    tensors, except at the edge of the integers, where they are operators that convert.
    """
    return _Listing(opened(path)).contents()


def opened(path: Path) -> OnnxFile:
    """Opens and checks a file: its operators have the right number of operands and come in the order of the run.

    Raises:
        BadInput: it cannot be read, is too large, or is not a valid ONNX file.
        Unavailable: `onnx` is not installed.
    """
    return checked(read_bounded(path, MAX_BYTES, "an ONNX file"), path)


def checked(content: bytes, path: Path) -> OnnxFile:
    """As `opened`, from the file's content. `path` is for messages.

    Raises:
        BadInput: it is not a valid ONNX file.
        Unavailable: `onnx` is not installed.
    """
    file = parsed(content, path)
    onnx = require("onnx", "onnx")
    try:
        onnx.checker.check_model(file.model)
    except onnx.checker.ValidationError as err:
        raise BadInput(f"`{path}` is not a sound ONNX file: {' '.join(str(err).split())}") from err
    for node in file.graph.node:  # the checker knows the operands of the standard's operators alone
        fewest = 2 if node.op_type in (*_MULTIPLYING, *_PAIR) else 0
        if node.domain not in _STANDARD and (len(node.input) < fewest or not node.output):
            raise BadInput(f"`{path}` is not a sound ONNX file: {node.op_type} `{node_name(node)}` lacks operands or results")
    return file


def parsed(content: bytes, name: Path | str, folder: Path | None = None) -> OnnxFile:
    """As `checked`, without the checks.

    Args:
        content: of the file.
        name: of it, for messages.
        folder: where files with its weights may lie (`model.onnx.data`); None refuses those.

    Raises:
        BadInput: it is no ONNX file.
        Unavailable: `onnx` is not installed.
    """
    onnx, message = require("onnx", "onnx"), require("google.protobuf.message", "onnx")
    try:
        return OnnxFile(onnx.load_model_from_string(content), name, folder)
    except (message.DecodeError, RuntimeError, ValueError) as err:
        raise BadInput(f"`{name}` is not a sound ONNX file: {' '.join(str(err).split())}") from err


def node_name(node: Any) -> str:
    """A node's name, or its first result's: names are optional in ONNX."""
    return str(node.name or (node.output[0] if node.output else node.op_type))


class OnnxFile:
    """A model whose tensors are looked up by name.

    Attributes:
        model: the `ModelProto`.
        graph: its `GraphProto`.
        stored: name -> the `TensorProto` of every initializer and Constant node.
        external: name -> content of every file of weights beside it that was read.
    """

    def __init__(self, model: Any, name: Path | str, folder: Path | None = None) -> None:
        self._onnx, self._name, self.model, self.graph = require("onnx", "onnx"), name, model, model.graph
        self._folder, self.external = folder, dict[str, bytes]()
        self.stored: dict[str, Any] = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant" and node.output:
                self.stored.update((node.output[0], a.t) for a in node.attribute if a.type == a.TENSOR)

    @cached_property
    def makers(self) -> Mapping[str, Any]:
        """Tensor -> the node that makes it."""
        return {name: node for node in self.graph.node for name in node.output if name}

    @cached_property
    def readers(self) -> Mapping[str, list[Any]]:
        """Tensor -> the nodes that read it."""
        found: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def sorted_nodes(self) -> Sequence[Any]:
        """The nodes, each after those whose results it reads; in the file's own order where that is one already.

        Raises:
            BadInput: a name is no text, a tensor is made twice, or there is no such order, since nodes wait for each other or for a
                tensor that nobody makes.
        """
        nodes = list(self.graph.node)
        texts = [text for node in nodes for text in (node.name, node.op_type, node.domain, *node.input, *node.output)]
        texts += [entry.name for entry in (*self.graph.initializer, *self.graph.input, *self.graph.output)]
        if not all(isinstance(text, str) for text in texts):  # protobuf hands out as bytes what is no UTF-8
            raise BadInput(f"`{self._name}` is damaged: a name in it is not UTF-8 text")
        given = {"", *self.stored, *(entry.name for entry in self.graph.input)}
        made = Counter(name for node in nodes for name in node.output if name and node.op_type != "Constant")
        twice = next((name for name, count in made.items() if count > 1 or name in given), None)
        if twice is not None:
            raise BadInput(f"`{self._name}` is damaged: `{twice}` is made twice")
        missing = [{name for name in node.input if name not in given} for node in nodes]
        waiting: dict[str, list[int]] = {}
        for place, names in enumerate(missing):
            for name in names:
                waiting.setdefault(name, []).append(place)
        ready, order = [place for place, names in enumerate(missing) if not names], []
        while ready:
            place = heapq.heappop(ready)
            order.append(nodes[place])
            for name in nodes[place].output:
                for reader in waiting.pop(name, ()):
                    missing[reader].discard(name)
                    if not missing[reader]:
                        heapq.heappush(ready, reader)
        if len(order) < len(nodes):
            stuck = next(node for node, names in zip(nodes, missing, strict=True) if names)
            why = "waits for a tensor that nobody makes, or for itself"
            raise BadInput(f"`{self._name}` is damaged: {stuck.op_type} `{node_name(stuck)}` {why}")
        return order

    @cached_property
    def _inferred(self) -> Any | None:
        """The graph with the types that ONNX infers; None where it fails, and unknown types count as float."""
        try:
            return self._onnx.shape_inference.infer_shapes(self.model).graph
        except self._onnx.shape_inference.InferenceError:
            return None

    @cached_property
    def _types(self) -> Mapping[str, Any]:
        graph = self.graph if self._inferred is None else self._inferred
        return {entry.name: entry.type.tensor_type for entry in (*graph.input, *graph.value_info, *graph.output)}

    @cached_property
    def _followed(self) -> Mapping[str, str]:
        """Tensor -> dtype of those that ONNX's inference leaves out: results of ONNX Runtime's operators and what follows them."""
        found: dict[str, str] = {}

        def dtype(name: str) -> str:
            if name in self.stored:
                return self.dtype(self.stored[name].data_type)
            kind = self._types.get(name)
            return found.get(name, UNKNOWN) if kind is None or not kind.elem_type else self.dtype(kind.elem_type)

        for node in self.graph.node if self._inferred is not None else ():
            inputs = [dtype(name) if name else UNKNOWN for name in node.input]
            if node.domain == _MICROSOFT:
                made = _microsoft_result(node.op_type, inputs)
            elif node.domain in _STANDARD and not any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
                made = inputs[0] if inputs else UNKNOWN  # where ONNX cannot tell, it is because the input's dtype is the result's
            else:
                made = UNKNOWN
            found.update((name, made) for name in node.output if name and made != UNKNOWN)
        return found

    @property
    def metadata(self) -> Mapping[str, str]:
        """Key -> text, without duplicate keys."""
        count = Counter(entry.key for entry in self.model.metadata_props)
        return {entry.key: entry.value for entry in self.model.metadata_props if count[entry.key] == 1}

    @cached_property
    def contents(self) -> Contents:
        """The graph as operators and tensors."""
        graph = self.graph
        return Contents(
            NAME,
            tuple(self.operator(node) for node in graph.node if node.op_type != "Constant"),
            tuple(self.tensor(entry.name) for entry in graph.input if entry.name not in self.stored),
            tuple(self.tensor(entry.name) for entry in graph.output),
            tuple(self.tensor(name) for name in self.stored),
            self.metadata,
            ("the file defines functions of its own, which cannot be seen through",) if self.model.functions else (),
        )

    def operator(self, node: Any) -> FileOperator:
        """A node as an operator."""
        domain = "" if node.domain in _STANDARD or (node.domain == _MICROSOFT and node.op_type in _PAIR) else f"{node.domain}:"
        kind = f"{domain}{node.op_type}"
        nested = any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute)
        return FileOperator(
            kind,
            node_name(node),
            tuple(self.tensor(name) for name in node.input if name),
            tuple(self.tensor(name) for name in node.output if name),
            {name: plain for name, value in self.attributes(node).items() if (plain := _plain(value)) is not None},
            "it has operators inside" if nested else "" if not domain or kind in _KNOWN else "a foreign operator",
        )

    def tensor(self, name: str) -> FileTensor:
        """A tensor by its name, with the type that shape inference finds."""
        if name in self.stored:
            tensor = self.stored[name]
            shape = tuple(int(side) for side in tensor.dims)
            few = tensor.data_type in (tensor.INT32, tensor.INT64) and sum(shape) <= MAX_VALUES
            values = tuple(int(v) for v in self.array(name).reshape(-1)) if few else ()
            dtype, itemsize = self._dtype(tensor.data_type)
            size_bytes = math.prod(shape) * itemsize

            def load() -> bytes:
                return bytes(tensor.raw_data or tensor.SerializeToString())

            return FileTensor(name, dtype, shape, True, values=values, size_bytes=size_bytes, load=load)
        kind = self._types.get(name)
        constant = name in self.makers and self.makers[name].op_type == "Constant"
        if kind is None or not kind.elem_type:
            return FileTensor(name, self._followed.get(name, UNKNOWN), (), constant)
        shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else FREE for dim in kind.shape.dim)
        return FileTensor(name, self.dtype(kind.elem_type), shape, constant)

    def dtype(self, elem_type: int) -> str:
        """numpy's name of an element type."""
        return self._dtype(elem_type)[0]

    def numpy_dtype(self, elem_type: int) -> np.dtype[Any]:
        """numpy's dtype of an element type that `dtype` knows."""
        dtype: np.dtype[Any] = self._onnx.helper.tensor_dtype_to_np_dtype(elem_type)
        return dtype

    def _dtype(self, elem_type: int) -> tuple[str, int]:
        """numpy's name of an element type and bytes per element, 0 where it is unknown."""
        try:
            dtype = self._onnx.helper.tensor_dtype_to_np_dtype(elem_type)
        except KeyError:
            return UNKNOWN, 0
        return str(dtype.name), int(dtype.itemsize)

    def array(self, name: str) -> NDArray[Any]:
        """A constant's values, in its own dtype and shape.

        Raises:
            BadInput: it is damaged, or stored in another file.
            LookupError: the file stores no such constant.
        """
        return self.values(self.stored[name])

    def values(self, tensor: Any) -> NDArray[Any]:
        """A `TensorProto`'s values, as `array` gives them."""
        try:
            if tensor.data_location == tensor.EXTERNAL or tensor.external_data:
                return self._outside(tensor)
            values: NDArray[Any] = self._onnx.numpy_helper.to_array(tensor)
        except (TypeError, ValueError, RuntimeError, OverflowError, LookupError) as err:
            raise BadInput(f"the tensor `{tensor.name}` in `{self._name}` is damaged: {err}") from err
        return values

    def _outside(self, tensor: Any) -> NDArray[Any]:
        """Values in a file beside this one, uncopied. https://onnx.ai/onnx/repo-docs/ExternalData.html"""
        content, entries = self._beside(tensor), {entry.key: entry.value for entry in tensor.external_data}
        dtype, shape, offset = self.numpy_dtype(tensor.data_type), tuple(tensor.dims), int(entries.get("offset", 0))
        size = math.prod(shape) * dtype.itemsize
        if int(entries.get("length", size)) != size or offset < 0:
            raise ValueError(f"{size} bytes, said to be {entries.get('length')} at {offset}")
        return np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)

    def _beside(self, tensor: Any) -> bytes:
        """The file that a tensor lies in: in the same folder or below, and never behind a link that leads elsewhere."""
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if self._folder is None:
            raise BadInput(f"`{self._name}` keeps `{tensor.name}` in another file", hint="save the model with its weights inside")
        if location not in self.external:
            path = self._folder / location
            if not location or "\\" in location or not path.resolve().is_relative_to(self._folder.resolve()):
                raise BadInput(f"`{self._name}` keeps `{tensor.name}` in `{location}`, outside its own folder: that is not read")
            with reading(path):
                if not path.is_file():
                    why = f"`{self._name}` keeps its weights in `{location}`, which is not beside it"
                    raise BadInput(why, hint=f"put {location} into the same folder")
            room = MAX_BYTES - sum(map(len, self.external.values()))
            self.external[location] = read_bounded(path, room, "an ONNX file's weights")
        return self.external[location]

    def sha256(self, content: bytes) -> str:
        """Of the file, and of the files with its weights behind it, sorted by name.

        Raises:
            BadInput: one of these is not there, or lies elsewhere.
        """
        for tensor in self.stored.values():
            if tensor.data_location == tensor.EXTERNAL or tensor.external_data:
                self._beside(tensor)
        digest = hashlib.sha256(content)
        for location in sorted(self.external):
            digest.update(self.external[location])
        return digest.hexdigest()

    @cached_property
    def opset(self) -> int:
        """The version of the standard's operators; 0 where the file says none."""
        return max((entry.version for entry in self.model.opset_import if entry.domain in _STANDARD), default=0)

    def schema(self, node: Any) -> Any | None:
        """What the standard says of an operator in the file's opset, an `OpSchema`; None of one that it does not know."""
        try:
            return self._onnx.defs.get_schema(node.op_type, max_inclusive_version=self.opset)
        except self._onnx.defs.SchemaError:
            return None

    def attributes(self, node: Any) -> dict[str, Any]:
        """A node's attributes as Python has them (int, list of int, bytes, tensor ...)."""
        return {attribute.name: self._onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _microsoft_result(operator: str, inputs: Sequence[str]) -> str:
    """The dtype that an operator of ONNX Runtime gives, by those of its inputs."""
    integers = [dtype for dtype in inputs if dtype in _BYTES]
    if operator == "QuantizeLinear":
        return inputs[2] if len(inputs) > 2 else "uint8"
    if operator == "QGemm" and UNKNOWN in (inputs[_QGEMM_ZERO_POINT:] or [UNKNOWN]):
        return "float32"
    if operator == "QGemm" or operator.startswith("QLinear"):
        return integers[0] if integers else UNKNOWN
    floating = operator == "DequantizeLinear" or f"{_MICROSOFT}:{operator}" in _DYNAMIC
    return "float32" if floating else inputs[0] if f"{_MICROSOFT}:{operator}" in _MULTIPLYING else UNKNOWN


def _plain(value: Any) -> Attribute | None:
    """An attribute's value; None of a tensor, a graph and anything else that `lint` does not ask for."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list) and all(isinstance(entry, int) for entry in value):
        return tuple(value)
    return value if isinstance(value, int | float) else None


class _Listing:
    """A file's operators, with tensors in the integers that QuantizeLinear and DequantizeLinear give them."""

    def __init__(self, file: OnnxFile) -> None:
        self._file, self._whole = file, file.contents

    def contents(self) -> Contents:
        """The listing."""
        return Contents(NAME, tuple(self._operators()), self._whole.inputs, self._whole.outputs)

    def _operators(self) -> Iterator[FileOperator]:
        for operator in self._whole.operators:
            if operator.kind not in _PAIR:
                inputs, outputs = (tuple(self._carried(t.name) for t in side) for side in (operator.inputs, operator.outputs))
                yield FileOperator(operator.kind, operator.name, inputs, outputs, operator.attributes)
            elif self._at_edge(operator):
                yield operator  # its tensors show what it converts

    def _at_edge(self, operator: FileOperator) -> bool:
        """Whether a QuantizeLinear reads a tensor that is float elsewhere too, or a DequantizeLinear gives one."""
        if operator.inputs[0].constant:
            return False
        if operator.kind == "QuantizeLinear":
            return not self._carried(operator.inputs[0].name).scales
        (made, *_), readers = operator.outputs, self._whole.readers_of(operator.outputs[0])
        return made.key in self._whole.given or any(not self._ends_in_integers(reader) for reader, _ in readers)

    def _ends_in_integers(self, operator: FileOperator) -> bool:
        return operator.kind == "QuantizeLinear" or any(self._carried(tensor.name).scales for tensor in operator.outputs)

    def _carried(self, name: str) -> FileTensor:
        """A tensor as a runtime that fuses the pairs has it: in the integers that it is dequantized from or quantized to."""
        maker, readers = self._file.makers.get(name), self._file.readers.get(name, [])
        if maker is not None and maker.op_type == "DequantizeLinear":
            return self._quantized(name, maker, maker.input[0])
        if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS:
            made, plain = self._carried(readers[0].output[0]), self._file.tensor(name)
            return FileTensor(name, made.dtype, plain.shape, False, made.scales, made.zero_points) if made.scales else plain
        if name not in self._whole.given and readers and all(reader.op_type == "QuantizeLinear" for reader in readers):
            return self._quantized(name, readers[0], readers[0].output[0])
        return self._file.tensor(name)

    def _quantized(self, name: str, node: Any, integers: str) -> FileTensor:
        """The tensor `name` in the integers of the tensor `integers`, with the scale of the node between them."""
        file, stored = self._file, self._file.tensor(integers)
        scales = tuple(float(value) for value in self._row(node.input[1]))
        zeros = tuple(int(value) for value in self._row(node.input[2])) if len(node.input) > 2 else (0,) * len(scales)
        dtype = file.dtype(file.stored[node.input[2]].data_type) if len(node.input) > 2 else stored.dtype
        return FileTensor(name, dtype, file.tensor(name).shape or stored.shape, stored.constant, scales, zeros)

    def _row(self, name: str) -> Any:
        """A constant's values, flat; empty where `name` is no constant."""
        return self._file.array(name).reshape(-1) if name in self._file.stored else ()
