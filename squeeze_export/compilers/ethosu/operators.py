"""Which of a TFLite file's operators became part of the NPU's, and why the others did not."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from squeeze_export.core import PlacedOperator, Placement, place, require
from squeeze_export.errors import Refused

NPU_OPERATOR = "ethos-u"
"""Custom code of the operator that stands for all that runs on the NPU."""
MAX_REASON_CHARACTERS = 200
_WEIGHTED = ("CONV_2D", "FULLY_CONNECTED")
_WARNING = re.compile(r"^Warning \(supported operators\) operator: \S+, ofm: '(?P<name>.*)'\n(?P<reason>Reason: .*(?:\n.+)*)", re.M)
_DAMAGE = (struct.error, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What the schema's classes raise of a file that is none."""


@dataclass(frozen=True)
class _Operator:
    """Of a file.

    Attributes:
        kind: such as `CONV_2D`; of a custom one its own code.
        outputs: names of the tensors that it makes.
        floating: whether it takes or makes floats.
        macs: its multiply-accumulates.
    """

    kind: str
    outputs: tuple[str, ...]
    floating: bool
    macs: int

    @property
    def name(self) -> str:
        return f"{self.kind} {self.outputs[0] if self.outputs else ''}".rstrip()


@dataclass(frozen=True)
class _File:
    """Operators in order, and the network's inputs and outputs: `name dtype[shape]`."""

    operators: tuple[_Operator, ...]
    borders: tuple[str, ...]


def placement_of(network: bytes, compiled: bytes, printed: str) -> Placement:
    """Where the operators of a file will run: those that the compiled file still holds on the CPU, all others on the NPU.

    Args:
        network: the TFLite file that was compiled.
        compiled: what Vela made of it.
        printed: what Vela printed: its warnings say why an operator was left.

    Raises:
        Refused: what Vela made is no TFLite file, takes or gives something else than the network, or holds operators that the
            network does not have.
    """
    before, after = _read(network), _read(compiled)
    if before.borders != after.borders:
        raise Refused(f"Vela changed the network's inputs or outputs from `{before.borders}` to `{after.borders}`")
    left = {(operator.kind, operator.outputs) for operator in after.operators if operator.kind != NPU_OPERATOR}
    foreign = left - {(operator.kind, operator.outputs) for operator in before.operators}
    if foreign:
        kind, outputs = min(foreign)
        raise Refused(f"Vela's file holds an operator that the network does not: `{kind} {' '.join(outputs)}`")
    reasons = _reasons(printed)
    placed = [
        PlacedOperator(o.name, not o.floating, o.macs, _where(o, reasons) if (o.kind, o.outputs) in left else "")
        for o in before.operators
    ]
    parts = sum(operator.kind == NPU_OPERATOR for operator in after.operators)
    if not parts and len(left) < len(before.operators):
        raise Refused(f"Vela's file holds {len(left)} of the network's {len(before.operators)} operators and nothing for the NPU")
    whole = f"{parts} `{NPU_OPERATOR}` operator{'' if parts == 1 else 's'}"
    return place(placed, floats="none", source=f"the file that Vela wrote: {whole} and {len(left)} left on the CPU")


def _where(operator: _Operator, reasons: Mapping[str, str]) -> str:
    found = [reasons[name] for name in operator.outputs if name in reasons]
    return f"the CPU: {found[0]}" if found else "the CPU"


def _reasons(printed: str) -> dict[str, str]:
    """Name of an operator's output -> why the operator is not on the NPU, in Vela's words."""
    found: dict[str, str] = {}
    for match in _WARNING.finditer(printed):
        words = "; ".join(match["reason"].removeprefix("Reason: ").splitlines()).replace("`", "'")
        short = words if len(words) <= MAX_REASON_CHARACTERS else f"{words[:MAX_REASON_CHARACTERS]} ..."
        found.setdefault(match["name"], short)
    return found


def _read(content: bytes) -> _File:
    schema = require("ai_edge_litert.schema_py_generated", "ethosu")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        (graph,) = model.subgraphs
        kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
        dtypes = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
        codes = [_kind(code, kinds) for code in model.operatorCodes]
        operators = tuple(_operator(node, codes[node.opcodeIndex], graph.tensors, dtypes) for node in graph.operators)
        borders = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
        return _File(operators, tuple(f"{_name(t)} {dtypes[t.type]}{[int(size) for size in t.shape]}" for t in borders))
    except _DAMAGE as err:
        raise Refused(f"Vela's file cannot be read: {type(err).__name__}: {err}") from err


def _kind(code: Any, kinds: Mapping[int, str]) -> str:
    if code.customCode is not None:
        return str(code.customCode.decode("utf-8", "replace"))
    return kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _operator(node: Any, kind: str, tensors: Any, dtypes: Mapping[int, str]) -> _Operator:
    inputs, outputs = ([tensors[index] for index in side if index >= 0] for side in (node.inputs, node.outputs))
    macs = 0
    if kind in _WEIGHTED:  # outputs, times the weights (O, ...) behind one of them
        macs = math.prod(int(size) for size in (*outputs[0].shape, *inputs[1].shape[1:]))
    floating = any("FLOAT" in dtypes[tensor.type] for tensor in (*inputs, *outputs))
    return _Operator(kind, tuple(_name(tensor) for tensor in outputs), floating, macs)


def _name(tensor: Any) -> str:
    return str(tensor.name.decode("utf-8", "replace")) if tensor.name is not None else ""
