"""Exports to several targets at once, each in a process of its own.

That is faster where there is more than one core (the toolchains' imports cost more than the writing), and whatever a toolchain
does to its process, a crash in native code included, the other targets' files are written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from squeeze_export.core import Artifact, EmitOptions, Progress
from squeeze_export.errors import SqueezeExportError
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme, scheme_named
from squeeze_export.graph.table import graph_bytes, read_graph, read_table, table_bytes
from squeeze_export.pipeline.export import export, read_artifact
from squeeze_export.workers.worker import Worker


@dataclass(frozen=True)
class Order:
    """One file to write.

    Attributes:
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        scheme: how numbers are carried.
        out: an existing folder.
    """

    network: Graph | QuantizedGraph
    scheme: Scheme
    out: Path


def export_apart(
    targets: Sequence[str], orders: Sequence[Order], *, name: str, options: EmitOptions, progress: Progress
) -> dict[str, list[Artifact] | SqueezeExportError]:
    """Does the same orders for every target, side by side.

    Args:
        targets: keys of `registry.TARGETS`.
        orders: the files to write for each.
        name: first part of the file names.
        options: the outer form.
        progress: told of finished targets.

    Returns:
        target -> an artifact for every order, or what went wrong.
    """
    workers: dict[str, Worker] = {}
    found: dict[str, list[Artifact] | SqueezeExportError] = {}
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder, ExitStack() as stack:
        request = {"name": name, "options": asdict(options), "orders": _handed_over(orders, Path(folder))}
        for target in targets:
            # In the user's folder, to which paths and messages are relative.
            workers[target] = stack.enter_context(Worker(__name__, tool=f"the {target} toolchain", cwd=Path()))
            workers[target].send("write_files", {**request, "target": target})
        for done, (target, worker) in enumerate(workers.items()):
            progress("exporting", done, len(targets))
            try:
                answer, _ = worker.receive()
                found[target] = [read_artifact(Path(path)) for path in answer["paths"]]
            except SqueezeExportError as err:
                found[target] = err
        progress("exporting", len(targets), len(targets))
    return found


def _handed_over(orders: Sequence[Order], folder: Path) -> list[dict[str, str]]:
    listed = []
    for index, order in enumerate(orders):
        network, path = order.network, folder / f"{index}.network"
        path.write_bytes(table_bytes(network) if isinstance(network, QuantizedGraph) else graph_bytes(network))
        listed.append({"network": str(path), "scheme": order.scheme.name, "out": str(order.out)})
    return listed


def write_files(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The other side: writes the files of one target, and gives their paths."""
    options = EmitOptions(**values["options"])
    paths: list[str] = []
    for order in reversed(values["orders"]):  # the product last: what fails before it leaves none behind
        scheme = scheme_named(order["scheme"])
        network = (read_table if scheme.integer else read_graph)(Path(order["network"]))
        artifact, _ = export(network, values["target"], scheme, Path(order["out"]), name=values["name"], options=options)
        paths.insert(0, str(artifact.path))
    return {"paths": paths}, {}
