"""Where operators ran, by Qualcomm's provider: its profile of one inference, a CSV, and the graph that it made."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from squeeze_export.core import PlacedOperator
from squeeze_export.errors import Refused
from squeeze_export.formats.qnn import VERSION_HINT, QnnOperator
from squeeze_export.runtimes.onnxruntime.records import name_in_file

SOURCE = "QNN's graph, and its profile of one inference"
MAX_PROFILE_BYTES = 16_000_000

_NODE = re.compile(r"^(?P<name>.+):OpId_\d+ \(cycles\)$")
_UNSEEN = "nothing that its profile names"


def read_profile(path: Path) -> tuple[str, ...]:
    """Names of the nodes that ran on the HTP, in order, from the provider's CSV of one or more inferences.

    Raises:
        Refused: there is no such profile, or it names no node.
    """
    try:
        if path.stat().st_size > MAX_PROFILE_BYTES:
            raise Refused("QNN's profile is larger than a profile is")
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("Message") == "NODE"]
    except OSError as err:
        raise Refused("QNN wrote no profile", hint=VERSION_HINT) from err
    found = [_NODE.match(row["Event Identifier"]) for row in rows]
    names = tuple(dict.fromkeys(match["name"] for match in found if match))
    if not names:
        raise Refused("QNN's profile names no operator", hint=VERSION_HINT)
    return names


def placed(operators: Sequence[QnnOperator], ran: Sequence[str]) -> tuple[PlacedOperator, ...]:
    """The operators of a graph in the order in which they ran, and whether they ran on the HTP.

    Args:
        operators: of QNN's graph, in any order.
        ran: names of those in the profile, in order.
    """
    rank = {name: index for index, name in enumerate(ran)}
    return tuple(
        PlacedOperator(f"{o.kind} {name_in_file(o.name)}", o.integer, o.macs, "" if o.name in rank else _UNSEEN)
        for o in sorted(operators, key=lambda o: rank.get(o.name, len(rank)))
    )
