"""One target's exports in a process of their own; `processes` starts it. A toolchain that breaks takes down this process alone."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

from squeeze_export.core import EmitOptions
from squeeze_export.errors import SqueezeExportError
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.graph.table import read_graph, read_table
from squeeze_export.pipeline.export import export

REQUEST = "request.json"


def main(folder: Path, target: str) -> None:
    """Does what `request.json` says for one target, and writes `<target>.json`: the files' paths, or what went wrong.

    Args:
        folder: of the hand-over; holds the request and the networks that it names.
        target: a key of `targets.TARGETS`.
    """
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    options = EmitOptions(**request["options"])
    answer: dict[str, object]
    try:
        paths: list[str] = []
        for order in reversed(request["orders"]):  # the product last: what fails before it leaves none behind
            scheme = scheme_named(order["scheme"])
            network = (read_table if scheme.integer else read_graph)(folder / order["network"])
            artifact, _ = export(network, target, scheme, Path(order["out"]), name=request["name"], options=options)
            paths.insert(0, str(artifact.path))
        answer = {"paths": paths}
    except SqueezeExportError as err:
        answer = {"kind": type(err).__name__, "message": err.message, "hint": err.hint}
    (folder / f"{target}.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except OSError as err:
        if err.errno != errno.ENOSPC:
            raise
        sys.exit(errno.ENOSPC)  # the hand-over's folder is full: the number is all that can be told
