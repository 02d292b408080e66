"""Exports to several targets at once, each in a process of its own.

That is faster where there is more than one core (the toolchains' imports cost more than the writing), and whatever a toolchain
does to its process, a crash in native code included, the other targets' files are written.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from squeeze_export.core import Artifact, Audit, EmitOptions, Progress
from squeeze_export.errors import BadInput, Refused, SqueezeExportError
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme
from squeeze_export.graph.table import graph_bytes, table_bytes
from squeeze_export.pipeline.export import read_exported
from squeeze_export.pipeline.worker import REQUEST

CHILD_CODE = "import sys; sys.path[:] = {path!r}; import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
"""For `python -c`, after `format(path=sys.path, module=...)`: runs a module as the main one, with this process's search path, so
that the child finds the packages where this process does, and not in whatever folder the user stands in."""
PATIENCE_S = 5
ERROR_KINDS = {kind.__name__: kind for kind in SqueezeExportError.__subclasses__()}
"""Name -> error: how a child's error, written down as its name, message and hint, is raised here."""


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
) -> dict[str, list[tuple[Artifact, Audit]] | SqueezeExportError]:
    """Does the same orders for every target, side by side.

    Args:
        targets: keys of `targets.TARGETS`.
        orders: the files to write for each.
        name: first part of the file names.
        options: the outer form.
        progress: told of finished targets.

    Returns:
        target -> an artifact and its audit for every order, or what went wrong.
    """
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as temporary:
        folder = Path(temporary)
        _hand_over(folder, orders, name, options)
        processes: dict[str, subprocess.Popen[bytes]] = {}
        found: dict[str, list[tuple[Artifact, Audit]] | SqueezeExportError] = {}
        try:
            for target in targets:
                processes[target] = _start(folder, target)
            for done, (target, process) in enumerate(processes.items()):
                progress("exporting", done, len(targets))
                process.wait()
                found[target] = _answer(folder, target, process.returncode)
            progress("exporting", len(targets), len(targets))
        finally:
            for process in processes.values():
                _end(process)
        return found


def _hand_over(folder: Path, orders: Sequence[Order], name: str, options: EmitOptions) -> None:
    listed = []
    for index, order in enumerate(orders):
        network = order.network
        data = table_bytes(network) if isinstance(network, QuantizedGraph) else graph_bytes(network)
        (folder / f"{index}.network").write_bytes(data)
        listed.append({"network": f"{index}.network", "scheme": order.scheme.name, "out": str(order.out)})
    request = {"name": name, "options": asdict(options), "orders": listed}
    (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")


def _start(folder: Path, target: str) -> subprocess.Popen[bytes]:
    code = CHILD_CODE.format(path=sys.path, module="squeeze_export.pipeline.worker")
    with (folder / f"{target}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(folder), target],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(folder)},  # whatever the process leaves there goes with the folder
            start_new_session=True,  # a terminal's ^C is ours; `_end` passes on one, not a second
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that is still running: as ^C would, so that it removes what it has begun, and only then by force."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
    process.kill()  # does nothing to one that has ended
    process.wait()


def _answer(folder: Path, target: str, code: int) -> list[tuple[Artifact, Audit]] | SqueezeExportError:
    file = folder / f"{target}.json"
    if code == errno.ENOSPC:
        return BadInput(
            f"the {target} file needs more space than the temporary folder has", hint="set TMPDIR to one on another disk"
        )
    if code or not file.exists():
        return Refused(f"the {target} toolchain failed: {reason_of_end(folder / f'{target}.log', code)}")
    answer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "paths" not in answer:
        kind = ERROR_KINDS[answer["kind"]]
        return kind(answer["message"], hint=answer["hint"])
    try:
        return [read_exported(Path(path)) for path in answer["paths"]]
    except SqueezeExportError as err:  # somebody changed the file meanwhile
        return err


def reason_of_end(log: Path, code: int) -> str:
    """Why a child failed: the last line that it printed, or the signal that ended it.

    Args:
        log: what it printed, UTF-8.
        code: as `subprocess` gives it: below 0 for a signal.
    """
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"it was ended by {names.get(-code, f'signal {-code}')}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"
