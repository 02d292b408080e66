"""An ONNX file that is open in ONNX Runtime, on the provider of one device."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from squeeze_export.core import ByteArray, FloatArray, Placement
from squeeze_export.errors import Unavailable
from squeeze_export.graph.quantized import Scheme
from squeeze_export.runtimes.foreign import Adapter
from squeeze_export.runtimes.onnxruntime.calls import answered, batch_of, input_of, logits_of, onnxruntime, session_options
from squeeze_export.runtimes.onnxruntime.providers import DEVICES, Device, entries_for, evidence_and_facts, open_on
from squeeze_export.runtimes.onnxruntime.records import PROFILER, Record, is_fused, is_mixed, placement, read_events
from squeeze_export.runtimes.onnxruntime.subgraphs import ASSIGNMENT, SOURCE, expanded
from squeeze_export.runtimes.session import BatchSession


class OnnxSession(BatchSession):
    """An ONNX file opened on a device.

    Attributes:
        device: ONNX Runtime says that it uses this device's provider.
        kernels: the library behind that provider.
        evidence: `emulated` if a plug-in drives a GPU that is really the CPU.
        facts: `hardware`: what a plug-in drives.
    """

    runtime = "onnxruntime"

    def __init__(
        self,
        model: bytes,
        path: Path,
        device: str,
        driven: Device,
        threads: int,
        scheme: Scheme,
        *,
        adapter: Adapter | None = None,
    ) -> None:
        self._model, self._path, self._driven, self.threads, self._scheme = model, path, driven, threads, scheme
        self.device, self.kernels = device, driven.kernels
        self._session: Any = open_on(device, driven, model, path, session_options(threads), scheme, threads)
        self._adapter = adapter
        self._input = input_of(self._session, path) if adapter is None else adapter.input
        batch = batch_of(self._input)
        super().__init__(self._input.shape[1:] if adapter is None else adapter.sides, least=batch or 1, most=batch)
        entries = [] if device == "cpu" else entries_for(device, driven.provider)
        if entries:
            self.evidence, self.facts = evidence_and_facts(entries[0])

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        return self._answer(self._session, images)

    def _answer(self, session: Any, images: ByteArray) -> FloatArray:
        if self._adapter is None:
            return logits_of(session, self._path, self._input, images)
        given = answered(session, self._path, None, {self._input.name: self._adapter.taken(images)})
        return self._adapter.given(given[0])

    def free(self) -> None:
        """Frees the session."""
        self._session = None

    @cached_property
    def placement(self) -> Placement:
        """Which operators run where, and in what numbers: read once, from a profiled inference of a second session. If some
        convolutions run in integers and some in floats, a third session counts the multiply-accumulates.
        """
        counted = self._records
        if self.device == "cpu" and is_mixed(counted):
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
        """Checks that the device's provider ran something.

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
            session = open_on(self.device, self._driven, self._model, self._path, options, self._scheme, self.threads)
            self._answer(session, self.black_images())
            events = read_events(json.loads(Path(session.end_profiling()).read_text()))
        if optimized:
            self._events = events
        return events if self.device == "cpu" else expanded(events, session, self._model)
