"""A peer's own process. It gets the graph as a file and the images as plain arrays."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_export.errors import Unavailable
from squeeze_export.files import Content, read_content, write_draft
from squeeze_export.graph.table import graph_bytes, read_graph
from squeeze_export.peers import Source
from squeeze_export.workers.process import one_line
from squeeze_export.workers.worker import Worker

EXTRA = "peers"
"""The extra of this package that installs the vendors' tools."""
_GRAPH, _PRODUCT, _OWN = "graph.safetensors", "product", "own"
_ARRAYS = ("pixels", "validation", "labels")
_HINT = "leave out --recipe to quantize with this tool's own recipe"


def run_apart(module: str, source: Source, recipe: str, *, tool: str) -> Content:
    """Runs a peer in its own process and waits for it.

    Args:
        module: the peer's, whose function `work` is called; see `Peer.work`.
        source: what to quantize.
        recipe: one of the peer's.
        tool: its name in error messages.

    Returns:
        The product. The process leaves nothing else.

    Raises:
        BadInput, Unavailable, Refused: the process raised it; Refused also if anything else ended the process.
    """
    arrays = {name: getattr(source, name) for name in _ARRAYS if getattr(source, name) is not None}
    asked = {"module": module, "fp32": str(source.fp32.absolute()), "recipe": recipe, "tool": tool}
    with Worker(__name__, tool=tool, hint=_HINT, keep_private=True) as worker:
        (worker.folder / _GRAPH).write_bytes(graph_bytes(source.graph))
        worker.ask("quantize_here", asked, arrays)
        return read_content(worker.folder / _PRODUCT)


def quantize_here(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The other side of `run_apart`: does the work in its process, in the worker's folder."""
    own = Path(_OWN).absolute()
    own.mkdir()
    try:
        source = Source(read_graph(Path(_GRAPH)), Path(values["fp32"]), **arrays)
        write_draft(Path(_PRODUCT), importlib.import_module(values["module"]).work(source, values["recipe"], own))
    except ImportError as err:
        hint = f"pip install 'squeeze-export[{EXTRA}]'"
        raise Unavailable(f"{values['tool']} lacks a package: {one_line(str(err))}", hint=hint) from err
    return {}, {}
