"""What is inside an OpenVINO network: which operators compute in integers, and what was left in float. Read from the files alone.

An integer network is written on floats. A FakeQuantize says that a tensor takes one of 256 values; a runtime computes a product
in integers where its operand comes out of such a FakeQuantize, with nothing between that makes other values, and its weights are
stored as integers. The sum with the bias and the ReLU behind it belong to it as far as the next FakeQuantize. Such a group counts
as integer here; the notional floats inside it do not count as float tensors. Scales, bounds and biases are floats in this format:
they are allowed, as nothing else is but what a file says was kept in float on request: that is listed, and is no violation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from squeeze_export.core import Audit
from squeeze_export.graph.quantized import MIXED_SCHEMES
from squeeze_export.targets._kept_float import KEPT_FLOAT_KEY, declared_float
from squeeze_export.targets._openvino_file import Layer, Network, read_network
from squeeze_export.targets._openvino_info import PRODUCT_SUFFIX
from squeeze_export.targets._openvino_view import PRODUCTS, View

SCHEME_KEY = "squeeze_export.scheme"
"""What a file of ours says of itself."""

_STEPPING = ("Convert", "FakeQuantize", "Reshape", "Transpose")
"""May stand in float before the first product: they bring the input's floats to integers."""


def audit_network(path: Path) -> Audit:
    """Takes stock of a network.

    Args:
        path: its folder, or its `.xml` file with the `.bin` beside it.

    Returns:
        The audit. `violations` name each product that computes in float and why, each constant stored in float that is no scale,
        bound or bias, each float operator before the last product, and what cannot be seen through. Convolutions that the file
        says were kept in float are no violations, nor are their constants, nor the operators that multiply nothing and are float
        only because of them; a name among them that is no float convolution is one.

    Raises:
        BadInput: there is no sound OpenVINO network.
    """
    network = read_network(path)
    view = View(network)
    operators = [layer for layer in network.layers.values() if layer.kind not in ("Const", "Parameter", "Result")]
    floating = [layer for number, layer in network.layers.items() if view.is_float(number)]
    inputs = [layer for layer in network.layers.values() if layer.kind == "Parameter" and layer.outputs[0].floating]
    stored = [network.layers[number] for number in view.float_constants]
    constants = {
        (layer.attributes["offset"], layer.attributes["size"]): layer.outputs[0].dtype
        for layer in network.layers.values()
        if layer.kind == "Const"
    }
    weight_bytes: Counter[str] = Counter()
    for (_, size), dtype in constants.items():
        weight_bytes[dtype] += int(size)
    kept = _kept_float(network, view)
    return Audit(
        operators=dict(sorted(Counter(layer.kind for layer in operators).items())),
        float_operators=tuple(f"{layer.kind} {layer.name}" for layer in floating),
        float_tensors=tuple(
            f"{layer.name} {output}" for layer in (*inputs, *stored, *floating) for output in layer.outputs if output.floating
        ),
        violations=tuple(_violations(view, network.layers, kept)),
        weight_bytes=dict(sorted(weight_bytes.items())),
        kept_float=tuple(name for name, number in kept.items() if number is not None),
    )


def _kept_float(network: Network, view: View) -> dict[str, int | None]:
    """Name of each convolution of which the file says that it was kept in float -> its layer, None where that is not so: there
    is no such convolution, or several, or it computes in integers, or the file's scheme has no layers in float.
    """
    declared = declared_float(network.metadata.get(KEPT_FLOAT_KEY))
    if network.metadata.get(SCHEME_KEY, MIXED_SCHEMES[0]) not in MIXED_SCHEMES:
        return dict.fromkeys(declared)
    named: dict[str, list[int]] = {}
    for number, layer in network.layers.items():
        if layer.kind == "Convolution" and not _is_opaque(layer):
            named.setdefault(layer.name.removesuffix(PRODUCT_SUFFIX), []).append(number)
    single = {name: numbers[0] for name, numbers in named.items() if len(numbers) == 1 and view.reasons(numbers[0])}
    return {name: single.get(name) for name in declared}


def _violations(view: View, layers: Mapping[int, Layer], kept: Mapping[str, int | None]) -> Iterator[str]:
    products = {number for number, layer in layers.items() if layer.kind in PRODUCTS}
    if not products:
        yield "the file holds no convolution"
    for name, conv in kept.items():
        if conv is None:
            yield f"the file says that `{name}` was kept in float, which is no convolution in float here"
    if kept and products <= set(kept.values()):
        yield "no convolution computes in integers"
    excused = view.beside([conv for conv in kept.values() if conv is not None])
    before, behind = _ahead_of(layers, products), _following(layers, products)
    for number, layer in layers.items():
        if _is_opaque(layer):
            yield f"{layer.kind} `{layer.name}` cannot be seen through: a foreign operator or one with a network inside"
        elif number in excused:
            continue
        elif number in products:
            reasons = view.reasons(number)
            if reasons:
                yield f"{layer.kind} `{layer.name}` computes in float: {', '.join(reasons)}"
        elif number in before and view.is_float(number) and (layer.kind not in _STEPPING or number in behind):
            yield f"{layer.kind} `{layer.name}` computes in float before the last convolution"
    for number in view.float_constants:
        if not view.belongs_to(number, excused):
            yield f"the constant `{layers[number].name}` is stored as {layers[number].outputs[0]}"


def _is_opaque(layer: Layer) -> bool:
    return layer.nested or not re.fullmatch(r"opset\d+", layer.opset)


def _ahead_of(layers: Mapping[int, Layer], numbers: set[int]) -> set[int]:
    """The layers whose results reach one of `numbers`."""
    found: set[int] = set()
    for number in reversed(list(layers)):
        if number in found or number in numbers:
            found.update(source for source, _ in layers[number].sources)
    return found


def _following(layers: Mapping[int, Layer], numbers: set[int]) -> set[int]:
    """The layers that one of `numbers` reaches."""
    found: set[int] = set()
    for number, layer in layers.items():
        if any(source in found or source in numbers for source, _ in layer.sources):
            found.add(number)
    return found
