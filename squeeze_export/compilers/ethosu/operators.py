"""Which operators of a TFLite file run on the NPU, and why the others do not."""

from __future__ import annotations

import re

from squeeze_export.core import PlacedOperator, Placement, place
from squeeze_export.errors import BadInput, Refused
from squeeze_export.formats.contents import Contents, FileOperator
from squeeze_export.formats.tflite import CUSTOM, macs_of, read_bytes

NPU_OPERATOR = "ethos-u"
"""Custom code of the operator that replaces those that run on the NPU."""
MAX_REASON_CHARACTERS = 200
_WARNING = re.compile(r"^Warning \(supported operators\) operator: \S+, ofm: '(?P<name>.*)'\n(?P<reason>Reason: .*(?:\n.+)*)", re.M)


def placement_of(network: bytes, compiled: bytes, printed: str) -> Placement:
    """Where the operators of a file will run: those that the compiled file still holds on the CPU, all others on the NPU.

    Args:
        network: the TFLite file that was compiled.
        compiled: the file that Vela wrote.
        printed: Vela's output; its warnings say why an operator stays on the CPU.

    Raises:
        Refused: Vela's file is not a TFLite file, has other inputs or outputs than the network, or holds operators that the network
            does not have.
    """
    before, after = _read(network), _read(compiled)
    if _borders(before) != _borders(after):
        raise Refused(f"Vela changed the network's inputs or outputs from `{_borders(before)}` to `{_borders(after)}`")
    npu = CUSTOM + NPU_OPERATOR
    left = {_made(operator) for operator in after.operators if operator.kind != npu}
    foreign = left - {_made(operator) for operator in before.operators}
    if foreign:
        kind, outputs = min(foreign)
        raise Refused(f"Vela's file holds an operator that the network does not: `{kind} {' '.join(outputs)}`")
    reasons = _reasons(printed)
    placed = [
        PlacedOperator(
            str(operator),
            not any(tensor.floating for tensor in (*operator.inputs, *operator.outputs)),
            macs_of(operator),
            next((reasons[name] for name in _made(operator)[1] if name in reasons), "the CPU") if _made(operator) in left else "",
        )
        for operator in before.operators
    ]
    parts = sum(operator.kind == npu for operator in after.operators)
    if not parts and len(left) < len(before.operators):
        raise Refused(f"Vela's file holds {len(left)} of the network's {len(before.operators)} operators and nothing for the NPU")
    whole = f"{parts} `{NPU_OPERATOR}` operator{'' if parts == 1 else 's'}"
    return place(placed, floats="none", source=f"the file that Vela wrote: {whole} and {len(left)} left on the CPU")


def _made(operator: FileOperator) -> tuple[str, tuple[str, ...]]:
    """What identifies an operator in both files: its kind, and the names of its outputs."""
    return operator.kind, tuple(tensor.name for tensor in operator.outputs)


def _borders(file: Contents) -> tuple[str, ...]:
    """`name dtype[shape]` of all inputs and outputs."""
    return tuple(f"{tensor.name} {tensor}" for tensor in (*file.inputs, *file.outputs))


def _reasons(printed: str) -> dict[str, str]:
    """Name of an operator's output -> where it runs and why not on the NPU, in Vela's words."""
    found: dict[str, str] = {}
    for match in _WARNING.finditer(printed):
        words = "; ".join(match["reason"].removeprefix("Reason: ").splitlines()).replace("`", "'")
        short = words if len(words) <= MAX_REASON_CHARACTERS else f"{words[:MAX_REASON_CHARACTERS]} ..."
        found.setdefault(match["name"], f"the CPU: {short}")
    return found


def _read(content: bytes) -> Contents:
    try:
        file = read_bytes(content, "Vela's file")
    except BadInput as err:
        raise Refused(f"Vela's file cannot be read: {err.message}") from err
    if file.bodies:
        raise Refused(f"Vela's file cannot be read: it has {1 + len(file.bodies)} subgraphs")
    return file
