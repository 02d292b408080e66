"""Reads the two files of an OpenVINO network: the layers out of the XML, the size of the weights. OpenVINO is not needed for it.

The format: https://docs.openvino.ai, "OpenVINO IR format". Everything is bounded, and document types are refused: with them come
entities, which may grow without end or name other files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

from squeeze_export.core import Dimension, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.targets._openvino_info import SECTION

MAX_XML_BYTES = 64 << 20
MAX_WEIGHT_BYTES = 1 << 30

_DTYPES: Mapping[str, str] = {
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"fp{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"i{bits}": f"int{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (1, 4, 8, 16, 32, 64)},
    "bf16": "bfloat16",
    "boolean": "bool",
}
"""The XML's names of types, in small letters -> numpy's. Ports say FP32 where constants say f32."""

_OPERANDS: Mapping[str, int] = {"Convert": 1, "FakeQuantize": 5, "Result": 1}
"""The fewest operands of an operator, where there is something to be asked of them."""


@dataclass(frozen=True)
class Tensor:
    """What a layer gives.

    Attributes:
        names: of the tensor; a layer's own name is another one.
        shape: -1 where a dimension is free.
    """

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]

    @property
    def floating(self) -> bool:
        """Whether its elements are floating-point numbers; also where the type is unknown here."""
        return not self.dtype.startswith(("int", "uint", "bool"))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join('N' if side == -1 else str(side) for side in self.shape)}]"


@dataclass(frozen=True)
class Layer:
    """An operator, a constant, an input or an output.

    Attributes:
        kind: the operator's type, such as `Convolution`; `Const`, `Parameter` and `Result` are kinds too.
        opset: the version of its definition, such as `opset8`.
        attributes: of the operator.
        sources: (layer, which of its tensors), one per operand.
        outputs: what it gives.
        nested: whether there are networks inside it.
    """

    name: str
    kind: str
    opset: str
    attributes: Mapping[str, str]
    sources: tuple[tuple[int, int], ...]
    outputs: tuple[Tensor, ...]
    nested: bool


@dataclass(frozen=True)
class Network:
    """A network as it is written down.

    Attributes:
        layers: number in the file -> layer, every layer behind those that it reads.
        metadata: what this tool wrote into `rt_info`: `squeeze_export.<key>` -> text; without keys that are there twice.
    """

    layers: Mapping[int, Layer]
    metadata: Mapping[str, str]

    @cached_property
    def readers(self) -> Mapping[int, list[tuple[int, int]]]:
        """Layer -> (layer that reads it, which operand it is there)."""
        found: dict[int, list[tuple[int, int]]] = {number: [] for number in self.layers}
        for number, layer in self.layers.items():
            for operand, (source, _) in enumerate(layer.sources):
                found[source].append((number, operand))
        return found

    def source(self, layer: Layer, operand: int = 0) -> Tensor:
        """The tensor that a layer reads."""
        number, output = layer.sources[operand]
        return self.layers[number].outputs[output]


def network_files(path: Path) -> tuple[Path, Path]:
    """The XML and the weights: of a folder, or an `.xml` file with its `.bin`. Other files may lie beside them.

    Raises:
        BadInput: no folder, not one network in it, or an `.xml` file without its weights.
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


def read_network(path: Path) -> Network:
    """Reads the network of a folder or an `.xml` file.

    Raises:
        BadInput: not one network, too large, or a damaged one.
    """
    xml, weights = network_files(path)
    try:
        weight_bytes = weights.stat().st_size
        if xml.stat().st_size > MAX_XML_BYTES or weight_bytes > MAX_WEIGHT_BYTES:
            most = f"{MAX_XML_BYTES >> 20} MiB of XML and {MAX_WEIGHT_BYTES >> 20} MiB of weights"
            raise BadInput(f"`{path}` is larger than {most}, the most that is read of an OpenVINO network")
        text = xml.read_bytes()
    except OSError as err:
        raise BadInput(f"`{err.filename or path}` cannot be read: {err.strerror or err}") from err
    try:
        root = _parsed(text)
        return Network(_layers(root, weight_bytes), _metadata(root))
    except (expat.ExpatError, ParseError, LookupError, TypeError, ValueError) as err:
        raise BadInput(f"`{xml}` is not a sound OpenVINO network: {' '.join(str(err).split())}") from err


def describe_network(path: Path) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of the network of a folder or an `.xml` file.

    Raises:
        BadInput: not one sound network, or not one image tensor in and one row of numbers out.
    """
    layers = read_network(path).layers
    inputs = [layer for layer in layers.values() if layer.kind == "Parameter"]
    outputs = [layer for layer in layers.values() if layer.kind == "Result"]
    if len(inputs) != 1 or len(outputs) != 1:
        raise BadInput(f"`{path}` has `{len(inputs)}` inputs and `{len(outputs)}` outputs; a classifier has one of each")
    number, output = outputs[0].sources[0]
    specs = _spec(inputs[0].outputs[0], inputs[0].name), _spec(layers[number].outputs[output], layers[number].name)
    for side, spec, layouts in (("takes", specs[0], ("NHWC", "NCHW")), ("gives", specs[1], ("NC",))):
        if spec.layout not in layouts or spec.dtype not in ("uint8", "float32"):
            raise BadInput(f"`{path}` is no classifier: it {side} `{spec.dtype}` `{spec.shape}`")
    return specs


def _spec(tensor: Tensor, name: str) -> TensorSpec:
    shape: tuple[Dimension, ...] = tuple("N" if side == -1 else side for side in tensor.shape)
    layout = "NC" if len(shape) == 2 else ""
    if len(shape) == 4:
        layout = "NHWC" if shape[3] == 3 else "NCHW" if shape[1] == 3 else ""
    scale, zero_point = (1.0, 0) if tensor.dtype == "uint8" else (None, None)
    return TensorSpec(tensor.names[0] if tensor.names else name, shape, tensor.dtype, layout, scale, zero_point)


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


def _layers(root: Element, weight_bytes: int) -> dict[int, Layer]:
    """Number -> layer, every layer behind those that it reads."""
    places: dict[tuple[int, int], tuple[int, int]] = {}  # (layer, port) that gives a tensor -> (layer, which of its tensors)
    found: dict[int, Layer] = {}
    if root.tag != "net":
        raise ValueError(f"it holds a `{root.tag}`")
    sources = {
        (int(edge.attrib["to-layer"]), int(edge.attrib["to-port"])): (
            int(edge.attrib["from-layer"]),
            int(edge.attrib["from-port"]),
        )
        for edge in root.iterfind("edges/edge")
    }
    entries = {int(entry.attrib["id"]): entry for entry in root.iterfind("layers/layer")}
    for number, entry in entries.items():
        for index, port in enumerate(entry.iterfind("output/port")):
            places[number, int(port.attrib["id"])] = (number, index)
    for number, entry in entries.items():
        data = entry.find("data")
        attributes = {} if data is None else dict(data.attrib)
        found[number] = layer = Layer(
            entry.attrib["name"],
            entry.attrib["type"],
            entry.attrib["version"],
            attributes,
            tuple(places[sources[number, int(port.attrib["id"])]] for port in entry.iterfind("input/port")),
            tuple(_tensor(port) for port in entry.iterfind("output/port")),
            any(child.tag.endswith("body") for child in entry),
        )
        _check(layer, weight_bytes)
    order = TopologicalSorter({number: [source for source, _ in layer.sources] for number, layer in found.items()})
    return {number: found[number] for number in order.static_order()}


def _check(layer: Layer, weight_bytes: int) -> None:
    """Makes sure that what is asked of a layer later is there.

    Raises:
        ValueError: it is not.
    """
    if len(layer.sources) < _OPERANDS.get(layer.kind, 0) or (layer.kind in ("Const", "Parameter") and not layer.outputs):
        raise ValueError(f"{layer.kind} {layer.name} has too few operands or results")
    if layer.kind == "FakeQuantize" and int(layer.attributes["levels"]) < 2:
        raise ValueError(f"{layer.name} has {layer.attributes['levels']} levels")
    if layer.kind == "Const":
        offset, size = (int(layer.attributes[key]) for key in ("offset", "size"))
        if not 0 <= offset <= offset + size <= weight_bytes:
            raise ValueError(f"the constant {layer.name} lies outside the weights")


def _tensor(port: Element) -> Tensor:
    dtype = port.attrib["precision"].lower()
    names = tuple(name for name in port.attrib.get("names", "").split(",") if name)
    return Tensor(names, _DTYPES.get(dtype, dtype), tuple(int(dim.text or 0) for dim in port.iterfind("dim")))
