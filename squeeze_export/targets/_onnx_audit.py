"""What is inside an ONNX file: which operators compute in integers, and what was left in float.

In QDQ form every operator is written on floats. It computes in integers where a runtime can fuse it with the pairs around it:
all its operands come from DequantizeLinear and all its results go to QuantizeLinear alone, a ReLU between included. Such a
group counts as integer here; the notional floats inside it do not count as float tensors, nor do the scales. Everything else
that touches a float is listed. What a file says was kept in float on request is listed too, and is no violation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from squeeze_export.core import Audit, require
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import INT8_NPU, MIXED_SCHEMES
from squeeze_export.targets._kept_float import KEPT_FLOAT_KEY, declared_float
from squeeze_export.targets._onnx_view import MULTIPLYING, View, node_name

MAX_BYTES = 256 << 20
_STANDARD = ("", "ai.onnx")
_DYNAMIC = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
_CONVERTING = ("QuantizeLinear", "DequantizeLinear", "Cast", "Transpose", "Reshape")
"""May stand in float before the first convolution: they bring a float32 input to integers."""
SCHEME_KEY = "squeeze_export.scheme"
"""What a file of ours says of itself, and is held to."""


def read_model(onnx: Any, path: Path) -> Any:
    """Reads an ONNX file without external data, and has it checked: what follows may rely on operand counts and order.

    Args:
        onnx: the module.
        path: the file.

    Raises:
        BadInput: it cannot be read, is too large, or is no sound ONNX file.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"`{path}` is larger than {MAX_BYTES >> 20} MiB, the most that is read of an ONNX file")
        model = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(model)
    except OSError as err:
        raise BadInput(f"`{path}` cannot be read: {err.strerror or err}") from err
    except (require("google.protobuf.message", "onnx").DecodeError, onnx.checker.ValidationError) as err:
        raise BadInput(f"`{path}` is not a sound ONNX file: {' '.join(str(err).split())}") from err
    for node in model.graph.node:  # the checker knows the operands of the standard's operators alone
        fewest = 2 if node.op_type in (*MULTIPLYING, "QuantizeLinear", "DequantizeLinear") else 0
        if node.domain not in _STANDARD and (len(node.input) < fewest or not node.output):
            raise BadInput(f"`{path}` is not a sound ONNX file: {node.op_type} `{node_name(node)}` lacks operands or results")
    return model


def audit_model(onnx: Any, model: Any) -> Audit:
    """Takes stock of a model.

    Args:
        onnx: the module.
        model: from `read_model`.

    Returns:
        The audit. `violations` name each convolution or product that computes in float and why, each constant stored in float,
        each operator of a dynamic-range file, each float operator before the last convolution, and what cannot be seen through;
        in a file that says it is `int8-npu`, every float operator but what turns the input to integers and the logits back.
        Convolutions that the file says were kept in float are no violations, nor are their constants, nor the operators that
        multiply nothing and are float only because of them; a name among them that is no float convolution is one.
    """
    view = View(onnx, model)
    kept = _kept_float(view, model)
    floating = [node for node in model.graph.node if view.is_float(node)]
    computed = [f"{name} {view.described(name)}" for node in floating for name in node.output if view.holds_float(name)]
    stored = [f"{name} {view.described(name)}" for name in view.float_constants]
    inputs = [f"{entry.name} {view.described(entry.name)}" for entry in model.graph.input if view.holds_float(entry.name)]
    weight_bytes: Counter[str] = Counter()
    for dtype, size_bytes, shape in view.constants.values():
        weight_bytes[dtype] += math.prod(shape) * size_bytes
    return Audit(
        dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        tuple(f"{node.op_type} {node_name(node)}" for node in floating),
        (*inputs, *stored, *computed),
        tuple(_violations(view, model, kept)),
        dict(sorted(weight_bytes.items())),
        tuple(name for name, node in kept.items() if node is not None),
    )


def _kept_float(view: View, model: Any) -> dict[str, Any]:
    """Name of each convolution of which the file says that it was kept in float -> its node, None where that is not so: there is
    no such convolution, or several, or it computes in integers, or the file's scheme has no layers in float.
    """
    if _entry(model, SCHEME_KEY) not in (None, *MIXED_SCHEMES):
        return dict.fromkeys(declared_float(_entry(model, KEPT_FLOAT_KEY)))
    named: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.domain in _STANDARD:
            named.setdefault(node.name, []).append(node)
    single = {name: nodes[0] for name, nodes in named.items() if len(nodes) == 1 and view.is_float(nodes[0])}
    return {name: single.get(name) for name in declared_float(_entry(model, KEPT_FLOAT_KEY))}


def _entry(model: Any, key: str) -> str | None:
    """What the file says of itself under a key; None where it says nothing, or more than one thing."""
    found = [str(entry.value) for entry in model.metadata_props if entry.key == key]
    return found[0] if len(found) == 1 else None


def _violations(view: View, model: Any, kept: Mapping[str, Any]) -> Iterator[str]:
    products = [node for node in model.graph.node if node.op_type in (*MULTIPLYING, "QLinearConv", "QLinearMatMul")]
    if not products:
        yield "the file holds no convolution"
    before = view.ancestors(products)
    for name, conv in kept.items():
        if conv is None:
            yield f"the file says that `{name}` was kept in float, which is no convolution in float here"
    if kept and all(view.is_float(node) for node in products):
        yield "no convolution computes in integers"
    excused = view.beside([conv for conv in kept.values() if conv is not None])
    promised = any(entry.key == SCHEME_KEY and entry.value == INT8_NPU.name for entry in model.metadata_props)
    for node in model.graph.node:
        if node.domain not in _STANDARD or any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            yield f"{node.op_type} `{node_name(node)}` cannot be seen through: a foreign operator or one with a graph inside"
        elif node.op_type in _DYNAMIC:
            yield f"{node.op_type} `{node_name(node)}`: a dynamic-range file, its activations are quantized while it runs"
        elif not view.is_float(node) or not excused.isdisjoint(node.output):
            continue
        elif node.op_type in MULTIPLYING:
            yield f"{node.op_type} `{node_name(node)}` computes in float: {', '.join(view.reasons(node))}"
        elif node_name(node) in before and node.op_type not in _CONVERTING and not view.shifts_pixels(node):
            yield f"{node.op_type} `{node_name(node)}` computes in float before the last convolution"
        elif promised and not (node_name(node) in before or view.gives_logits(node)):
            yield f"{node.op_type} `{node_name(node)}` computes in float, in a file of the scheme `{INT8_NPU.name}`"
    for name in view.float_constants:
        if not (view.is_shift(name) or view.belongs_to(name, excused)):
            yield f"the constant `{name}` is stored as {view.described(name)}"
    if model.functions:
        yield "the file defines functions of its own, which cannot be seen through"
