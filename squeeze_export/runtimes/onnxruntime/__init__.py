"""ONNX Runtime. The provider of the device that was asked for, or none.

ONNX Runtime gives a provider the operators that it takes, and the rest to the CPU's: what went there is listed in a session's
placement. A session of which nothing ran on the asked provider is refused.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, FloatArray, Placement
from squeeze_export.errors import Unavailable
from squeeze_export.graph.quantized import Scheme, scheme_named
from squeeze_export.runtimes.onnxruntime import inner_tensors
from squeeze_export.runtimes.onnxruntime.calls import (
    answered,
    black_images,
    ends_of,
    onnxruntime,
    opened,
    session_options,
)
from squeeze_export.runtimes.onnxruntime.providers import (
    CPU,
    DEVICES,
    Device,
    absent,
    available,
    evidence_of,
    facts_of,
    open_on,
    plugin_entries,
)
from squeeze_export.runtimes.onnxruntime.records import PROFILER, Record, is_fused, placement, read_records
from squeeze_export.runtimes.onnxruntime.subgraphs import ASSIGNMENT, SOURCE, expanded
from squeeze_export.runtimes.session import BatchSession, check_threads, read_file

NAME = "onnxruntime"


def devices() -> tuple[str, ...]:
    """The devices whose provider is in the installed build, or in an installed plug-in, and works here.

    Raises:
        Unavailable: `onnxruntime` is not installed.
    """
    return tuple(available())


def open_session(artifact: Artifact, *, device: str, threads: int) -> OnnxSession:
    """Opens an ONNX file on a device.

    Args:
        artifact: of the target `onnx`.
        device: one of `devices()`.
        threads: intra-op threads, at least 1.

    Raises:
        BadInput: `threads` is below 1, or the file cannot be read.
        Unavailable: the device or `onnxruntime` is not on this machine, or none of the file runs on it.
        Refused: the file is no ONNX model, or none that takes one image tensor and gives one row of numbers.
    """
    check_threads(threads)
    driven = _driven(device)
    session = OnnxSession(read_file(artifact.path), artifact.path, device, driven, threads, scheme_named(artifact.scheme))
    if device != "cpu":
        session.check_it_ran_there()
    return session


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    _driven(device)


def _driven(device: str) -> Device:
    """How a device is driven.

    Raises:
        Unavailable: it is not here.
    """
    if device == "cpu" and CPU in onnxruntime().get_available_providers():
        return DEVICES["cpu"]  # without a look at the others
    present = available()
    if device not in present:
        raise absent(device, present)
    return present[device]


class OnnxSession(BatchSession):
    """An ONNX file opened on a device; satisfies `core.Session`.

    Attributes:
        runtime: `onnxruntime`.
        device: whose provider ONNX Runtime says it uses.
        threads: intra-op threads.
        kernels: the library behind that provider.
        evidence: `emulated` where a GPU's provider is given the CPU.
        facts: of a plug-in: the hardware that it drives.
    """

    runtime = NAME

    def __init__(self, model: bytes, path: Path, device: str, driven: Device, threads: int, scheme: Scheme) -> None:
        self._model, self._path, self._driven, self.threads, self._scheme = model, path, driven, threads, scheme
        self.device, self.kernels = device, driven.kernels
        self._session: Any = _open(model, path, device, driven, session_options(threads), scheme, threads)
        self._ends = ends_of(self._session, path)
        super().__init__(self._ends.shape[1:], least=self._ends.batch or 1, most=self._ends.batch)
        entries = [] if device == "cpu" else plugin_entries(driven.provider)
        if entries:
            self.evidence, self.facts = evidence_of(entries), facts_of(entries)

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        given = images.astype(self._ends.dtype, copy=False)
        logits: FloatArray = answered(self._session, self._path, None, {self._ends.name: given})[0]
        return logits

    def free(self) -> None:
        """Frees the session."""
        self._session = None

    @cached_property
    def placement(self) -> Placement:
        """Which operators run where, and in what numbers: read once, from a profiled inference of a second session; where some
        convolutions run in integers and some in floats, the multiply-accumulates are counted in a third.
        """
        counted = self._records
        if self.device == "cpu" and len({record.integer for record in counted if record.macs}) > 1:
            # Its float kernels fill up the channels; without its optimizations the convolutions are those of the file.
            counted = self._profiled(optimized=False)
        others = {record.provider for record in self._records} - {self._driven.provider, ""}
        names = {device.provider: name for name, device in reversed(list(DEVICES.items()))}
        return placement(
            self._records,
            sum(record.macs for record in counted),
            self._scheme.floats,
            {} if self.device == "cpu" else {provider: names.get(provider, provider) for provider in others},
            SOURCE if any(is_fused(record) for record in self._events) else PROFILER,
        )

    @cached_property
    def operators(self) -> Mapping[str, int]:
        """Operator type, after ONNX Runtime's own fusions -> how many ran; from the same record as `placement`."""
        return dict(sorted(Counter(record.operator for record in self._records).items()))

    def check_it_ran_there(self) -> None:
        """Refuses a session whose provider was left without work.

        Raises:
            Unavailable: no operator ran on it.
        """
        if not any(record.provider == self._driven.provider for record in self._records):
            raise Unavailable(
                f"no operator of `{self._path}` ran on `{self.device}`: {self._driven.provider} took none of them",
                hint="export another scheme, or --device cpu",
            )

    @cached_property
    def _records(self) -> tuple[Record, ...]:
        return self._profiled(optimized=True)

    def _profiled(self, *, optimized: bool) -> tuple[Record, ...]:
        with tempfile.TemporaryDirectory() as folder:
            options = session_options(self.threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            # Prepacked weights vanish from the record; their shapes are what the multiply-accumulates are counted from.
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.add_session_config_entry(ASSIGNMENT, "0" if self.device == "cpu" else "1")
            if not optimized:
                options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
            session = _open(self._model, self._path, self.device, self._driven, options, self._scheme, self.threads)
            answered(session, self._path, None, black_images(self._ends))
            events = read_records(json.loads(Path(session.end_profiling()).read_text()))
        if optimized:
            self._events = events
        return events if self.device == "cpu" else expanded(events, session, self._model)


def tapped_run(model: bytes, names: Sequence[str]) -> Callable[[ByteArray, Callable[[str, FloatArray], None] | None], FloatArray]:
    """A float run that shows inner tensors, for calibration. May be called from several threads: one thread each.

    Args:
        model: an ONNX file of batch 1 whose first output is the logits and which also outputs each of `names` as (1, H, W, C).
        names: the tensors to show, in the order in which they are shown.

    Returns:
        `run(batch, tap=None)`: `batch` (N, H, W, 3) uint8; `tap(name, values)` sees (1, H, W, C) float32, once per image and
        name; gives (N, classes) float32 logits.

    Raises:
        Refused: ONNX Runtime cannot open the model.
        Unavailable: `onnxruntime` is not installed.
    """
    session = opened(model, Path("calibration.onnx"), session_options(1), [CPU])
    source, logits = session.get_inputs()[0].name, session.get_outputs()[0].name

    def run(batch: ByteArray, tap: Callable[[str, FloatArray], None] | None = None) -> FloatArray:
        shown = list(names) if tap is not None else []
        rows = []
        for image in batch:
            row, *values = session.run([logits, *shown], {source: image[None]})
            rows.append(row)
            if tap is not None:
                for name, value in zip(shown, values, strict=True):
                    tap(name, value)
        return np.concatenate(rows)

    return run


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray, *, device: str = "cpu") -> Mapping[str, FloatArray]:
    """What the file's operators make of one image, on a device: its own tensors made outputs; see `Runtime.inner_values`.

    Raises:
        Refused: the file has no such tensors.
        Unavailable: the device, `onnx` or `onnxruntime` is not here.
    """
    driven, scheme = _driven(device), scheme_named(artifact.scheme)
    return inner_tensors.inner_values(
        artifact, names, pixels, lambda model: _open(model, artifact.path, device, driven, session_options(1), scheme, 1)
    )


def _open(model: bytes, path: Path, name: str, device: Device, options: Any, scheme: Scheme, threads: int) -> Any:
    if name == "cpu":
        return opened(model, path, options, [CPU])
    return open_on(name, device, model, path, options, scheme, threads)
