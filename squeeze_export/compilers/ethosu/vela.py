"""Vela in a process of its own: it prints much, ends its process on bad options, and holds native code that may crash."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from squeeze_export.compilers.ethosu.settings import VelaSettings
from squeeze_export.errors import Refused
from squeeze_export.workers.process import Process, our_python

TIMEOUT_S = 300.0
"""A SqueezeNet takes one or two seconds."""
MAX_OUTPUT_BYTES = 4_000_000
_STEM = "network"


@dataclass(frozen=True)
class Output:
    """What Vela left.

    Attributes:
        content: the compiled file.
        summary: the text of its summary CSV.
        layers: the text of its per-layer CSV.
        printed: what it printed: UTF-8, errors replaced.
    """

    content: bytes
    summary: str
    layers: str
    printed: str


class Vela:
    """Vela at work on a TFLite file. Also a context manager, which ends it.

    Args:
        network: the file.
        choice: for what.
        folder: empty; holds everything that Vela writes.
    """

    def __init__(self, network: bytes, choice: VelaSettings, folder: Path) -> None:
        self._choice, self._out, source = choice, folder / "out", folder / f"{_STEM}.tflite"
        source.write_bytes(network)
        command, environment = _command(source, choice, self._out), {**os.environ, "TMPDIR": str(folder)}
        self._process = Process(command, cwd=folder, environment=environment, log=folder / "output.txt")

    def __enter__(self) -> Vela:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.end()

    def output(self) -> Output:
        """Waits for it.

        Raises:
            Refused: it failed, took too long, or wrote something else than it should; with its last words.
        """
        choice, tool = self._choice, f"Vela for `{self._choice.accelerator}`"
        try:
            code = self._process.wait(TIMEOUT_S)
        except TimeoutError as err:
            raise Refused(f"{tool} did not finish within {TIMEOUT_S:g} s") from err
        if code:
            raise Refused(f"{tool} failed: {self._process.last_words()}")
        try:
            return Output(
                (self._out / f"{_STEM}_vela.tflite").read_bytes(),
                (self._out / f"{_STEM}_summary_{choice.system_config}.csv").read_text(encoding="utf-8"),
                (self._out / f"{_STEM}_per-layer.csv").read_text(encoding="utf-8"),
                self._process.printed(MAX_OUTPUT_BYTES),
            )
        except (OSError, UnicodeDecodeError) as err:
            raise Refused(f"{tool} did not write what it should: {self._process.last_words()}") from err


def _command(source: Path, choice: VelaSettings, out: Path) -> Sequence[str]:
    return our_python(
        "ethosu.vela",
        "--config",
        str(choice.config),
        "--accelerator-config",
        choice.accelerator,
        "--system-config",
        choice.system_config,
        "--memory-mode",
        choice.memory_mode,
        "--optimise",
        choice.optimise,
        "--verbose-performance",  # writes the per-layer CSV
        "--show-cpu-operations",  # prints why an operator stays on the CPU
        "--output-dir",
        str(out),
        str(source),
    )
