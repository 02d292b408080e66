"""Qualcomm's Hexagon tensor processor (HTP) through ONNX Runtime's plug-in `onnxruntime-qnn`: the chip, or on x86-64 its emulator.

The emulator shows the chip's integers and where the operators run (*emulated*), but its speed says nothing about the chip's. The
HTP computes a file's floating-point part in fp16. Nothing is left to the CPU: an operator that the HTP cannot run is refused.

It opens ONNX files, which are compiled when they are opened, for no SoC in particular; and compiled files (`squeeze-export qnn`),
which name the SoC that they are for.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray, Placement, place
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.files import reading
from squeeze_export.formats.onnx import parsed
from squeeze_export.formats.qnn import GRAPH_KEY, QnnOperator, binary_facts, graph_of_text, read_graph
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.onnxruntime import inner_tensors
from squeeze_export.runtimes.onnxruntime.calls import batch_of, input_of, logits_of
from squeeze_export.runtimes.onnxruntime.records import read_events
from squeeze_export.runtimes.qnn.plugin import CHIP, EMULATOR, PROVIDER, entries, open_on
from squeeze_export.runtimes.qnn.records import SOURCE, placed, read_profile
from squeeze_export.runtimes.session import BatchSession, check_present, check_threads

NAME = "qnn"
TARGETS = ("onnx", "qnn")
DEVICE_NAMES = (EMULATOR, CHIP)
MAX_FILE_BYTES = 512_000_000


def devices() -> tuple[str, ...]:
    """`htp` if there is one, `htp-emulator` on x86-64; see `Runtime.devices`."""
    return tuple(entries())


def open_session(artifact: Artifact, *, device: str, threads: int) -> QnnSession:
    """Opens an ONNX file, or one compiled for a SoC; see `Runtime.open_session`. The HTP schedules its threads by itself.

    Raises:
        Refused: also if the batch is free, the HTP cannot run an operator, or a compiled file is not one of ours.
    """
    check_threads(threads)
    check_device(device)
    with reading(artifact.path):
        if artifact.path.stat().st_size > MAX_FILE_BYTES:
            raise Refused(f"`{artifact.path}` is too large for a SqueezeNet")
        model = artifact.path.read_bytes()
    return QnnSession(model, artifact, device, threads)


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    check_present(device, devices(), "Qualcomm's provider", "`htp` is on boards and phones with a Hexagon tensor processor")


_TURN = threading.RLock()
_AWAKE: list[QnnSession] = []
"""Sessions that the library holds, all for one SoC: the library chooses it for the whole process. Binaries for two SoCs break each
other at the same time, but not one after the other.
"""


class QnnSession(BatchSession):
    """An ONNX file on the HTP or its emulator.

    Attributes:
        threads: as asked; the HTP schedules by itself.
        evidence: `emulated` on the emulator.
        facts: for a compiled file: the SoC and the HTP's architecture, from the context binary.
    """

    runtime = NAME
    kernels = "HTP"

    def __init__(self, model: bytes, artifact: Artifact, device: str, threads: int) -> None:
        self._model, self._path, self.device, self.threads = model, artifact.path, device, threads
        self._scheme = scheme_named(artifact.scheme)
        self.evidence: Evidence = "emulated" if device == EMULATOR else "measured"
        self._record = compiled_record(model, artifact.path)
        self.facts: Mapping[str, Any] = binary_facts(model) if self._record is not None else {}
        self._session: Any = None
        with _TURN:
            self._input = input_of(self._woken(), artifact.path)
        if any(isinstance(side, str) for side in self._input.shape):
            raise Refused(f"`{artifact.path}` has an open batch, which the HTP does not take", hint="export it with --batch 1")
        batch = batch_of(self._input)
        super().__init__(self._input.shape[1:], least=batch or 1, most=batch)

    def infer(self, batch: ByteArray) -> FloatArray:
        """See `core.Session.infer`; one session at a time has the library."""
        with _TURN:
            return super().infer(batch)

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        return logits_of(self._woken(), self._path, self._input, images)

    def free(self) -> None:
        """Frees the session."""
        with _TURN:
            self._sleep()

    def _woken(self) -> Any:
        """ONNX Runtime's session, opened again if files for another SoC have had the library since."""
        for other in [session for session in _AWAKE if session.facts.get("soc") != self.facts.get("soc")]:
            other._sleep()
        if self._session is None:
            self._session = open_on(self.device, self._model, self._path)
            _AWAKE.append(self)
        return self._session

    def _sleep(self) -> None:
        self._session = None
        if self in _AWAKE:
            _AWAKE.remove(self)

    @cached_property
    def placement(self) -> Placement:
        """Which operators ran on the HTP, and in what numbers: read once, from one profiled inference of a second session.

        The last Dequantize turns integer logits into the real values that the file gives; it is counted, but is no fall-back.
        """
        with _TURN, tempfile.TemporaryDirectory() as name:
            self._woken()
            folder = Path(name)
            options = {"profiling_level": "detailed", "profiling_file_path": str(folder / "profile.csv")}
            if self._record is None:
                options |= {"dump_json_qnn_graph": "1", "json_qnn_graph_dir": name}
            session = open_on(self.device, self._model, self._path, options=options, profile=folder / "onnxruntime")
            logits_of(session, self._path, self._input, self.black_images())
            events = Path(session.end_profiling())
            others = [r for r in read_events(json.loads(events.read_text())) if r.provider != PROVIDER]
            events.unlink()
            del session  # it writes the end of its profile then
            graph = self._record if self._record is not None else read_graph(folder)
            operators = placed(graph, read_profile(folder / "profile.csv"))
        if others:
            raise Refused(f"ONNX Runtime ran `{others[0].operator}` outside of QNN, which it was told not to")
        found = place(operators, floats=self._scheme.floats, source=SOURCE)
        if not self._scheme.integer_output:
            return found
        *before, last = found.fallbacks or ("",)
        meant = last.startswith("Dequantize ") and last.endswith(" in floating point")
        return replace(found, fallbacks=tuple(before)) if meant else found


def compiled_record(model: bytes, path: Path) -> tuple[QnnOperator, ...] | None:
    """The operators of a compiled file, from its own record; None for an ONNX file that is not compiled.

    Raises:
        Refused: not an ONNX file, or a compiled file that is not one of ours, or without its context binary.
    """
    try:
        file = parsed(model, path)
    except BadInput as err:
        raise Refused(f"QNN cannot open it: {err.message}", hint="export it again") from err
    contexts = [node for node in file.graph.node if node.op_type == "EPContext"]
    if not contexts:
        if not file.graph.node:
            raise Refused(f"`{path}` is not a sound ONNX file: it holds no operator", hint="export it again")
        return None
    if len(contexts) != 1 or len(file.graph.node) != 1 or file.attributes(contexts[0]).get("embed_mode") != 1:
        raise Refused(f"`{path}` does not hold its context binary itself, alone", hint="compile it with `squeeze-export qnn`")
    if GRAPH_KEY not in file.metadata:
        raise Refused(f"`{path}` was not compiled by this tool", hint="compile it with `squeeze-export qnn`")
    return graph_of_text(file.metadata[GRAPH_KEY])


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """An ONNX file's inner tensors for one image, on the HTP or its emulator; see `Runtime.inner_values`.

    Raises:
        Unavailable: also for a compiled file, whose tensors cannot be read.
    """
    present = devices()
    if artifact.target != TARGETS[0]:
        raise Unavailable("the inner tensors of a compiled file cannot be read", hint="open the ONNX file that it was made from")
    if not present:
        check_device(EMULATOR)
    return inner_tensors.inner_values(artifact, names, pixels, lambda model: open_on(present[0], model, artifact.path))
