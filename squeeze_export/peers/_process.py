"""A peer's own process: `python -m squeeze_export.peers.<name> FOLDER`.

The vendors' tools bring heavy imports with global state, print much, write beside themselves and may crash. In a process of
its own none of that reaches the caller. What is handed over lies in a temporary folder: the graph and the images as plain
arrays, the rest as JSON. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import squeeze_export
from squeeze_export.errors import BadInput, Refused, SqueezeExportError, Unavailable
from squeeze_export.files import Content, read_content, write_draft
from squeeze_export.graph.table import graph_bytes, read_graph
from squeeze_export.peers import Source

EXTRA = "peers"
"""The extra of this package that brings the vendors' tools."""
MAX_MESSAGE_CHARACTERS = 400
_MAX_OUTPUT_BYTES = 64_000

_GRAPH, _PIXELS, _VALIDATION, _LABELS, _ORDER, _PRODUCT, _FAILURE, _OUTPUT, _HOME = (
    "graph.safetensors",
    "pixels.npy",
    "validation.npy",
    "labels.npy",
    "order.json",
    "product",
    "failure.json",
    "output.txt",
    "home",
)
_ERRORS: dict[str, type[SqueezeExportError]] = {kind.__name__: kind for kind in (BadInput, Unavailable, Refused)}


def run_apart(module: str, source: Source, recipe: str, *, tool: str) -> Content:
    """Runs a peer in its own process and waits for it.

    Args:
        module: of the peer; it hands its work to `serve` when it is run.
        source: what it quantizes.
        recipe: one that it knows.
        tool: what error messages call it.

    Returns:
        What it made. Nothing else is left of the process.

    Raises:
        BadInput, Unavailable, Refused: what the process raised; Refused too if anything else ended it.
    """
    with tempfile.TemporaryDirectory(prefix="squeeze-export-peer-") as name:
        folder = Path(name)
        (folder / _HOME).mkdir()
        (folder / _GRAPH).write_bytes(graph_bytes(source.graph))
        for file, values in ((_PIXELS, source.pixels), (_VALIDATION, source.validation), (_LABELS, source.labels)):
            if values is not None:
                np.save(folder / file, values, allow_pickle=False)
        (folder / _ORDER).write_text(json.dumps({"fp32": str(source.fp32.absolute()), "recipe": recipe}))
        with (folder / _OUTPUT).open("wb") as output:
            code = subprocess.run(
                [sys.executable, "-m", module, name],
                cwd=name,
                env=_environment(folder / _HOME),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            ).returncode
        if (folder / _FAILURE).exists():
            failure = json.loads((folder / _FAILURE).read_text())
            raise _ERRORS[failure["kind"]](failure["message"], hint=failure["hint"])
        if code or not (folder / _PRODUCT).exists():
            raise _failed(tool, _last_words(code, folder / _OUTPUT))
        return read_content(folder / _PRODUCT)


def serve(work: Callable[[Source, str, Path], Content], *, tool: str) -> None:
    """The other side of `run_apart`: does the work that lies in the folder named on the command line.

    Args:
        work: takes the source, the recipe and an empty folder for its own files; gives the product.
        tool: what error messages call it.
    """
    folder = Path(sys.argv[1])
    try:
        order = json.loads((folder / _ORDER).read_text())
        arrays = (_array(folder / name) for name in (_PIXELS, _VALIDATION, _LABELS))
        source = Source(read_graph(folder / _GRAPH), Path(order["fp32"]), *arrays)
        own = folder / "own"
        own.mkdir()
        write_draft(folder / _PRODUCT, work(source, order["recipe"], own))
    except SqueezeExportError as err:
        _report(folder, err)
        raise
    except ImportError as err:
        _report(
            folder, Unavailable(f"{tool} lacks a package: {_one_line(str(err))}", hint=f"pip install 'squeeze-export[{EXTRA}]'")
        )
        raise
    except Exception as err:  # a vendor's tool may raise anything
        _report(folder, _failed(tool, f"{type(err).__name__}: {err}"))
        raise


def _array(path: Path) -> Any:
    """What was handed over, or None where it was not."""
    return np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None


def _environment(home: Path) -> dict[str, str]:
    """The caller's own, with what keeps the tools quiet, repeatable, and away from the user's files and from the network."""
    root = str(Path(squeeze_export.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, inherited] if inherited else [root]),
        "PYTHONHASHSEED": "0",  # ONNX Runtime walks through sets of names
        "PYTHONUSERBASE": site.getuserbase(),  # packages of the user's own stay where they are when HOME moves
        "HOME": str(home),
        "TMPDIR": str(home),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "NNCF_CI": "1",  # NNCF's own switch: no telemetry
    }


def _report(folder: Path, err: SqueezeExportError) -> None:
    failure = {"kind": type(err).__name__, "message": err.message, "hint": err.hint}
    (folder / _FAILURE).write_text(json.dumps(failure))


def _failed(tool: str, reason: str) -> Refused:
    return Refused(f"{tool} failed: {_one_line(reason)}", hint="leave out --recipe to quantize with this tool's own recipe")


def _last_words(code: int, output: Path) -> str:
    """Why a process ended that told nothing: its signal, and the last line that it printed."""
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - _MAX_OUTPUT_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{ended}, {lines[-1]}" if lines else ended


def _one_line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= MAX_MESSAGE_CHARACTERS else f"{joined[:MAX_MESSAGE_CHARACTERS]} ..."
