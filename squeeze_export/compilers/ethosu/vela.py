"""Vela in a process of its own: it prints much, ends its process on bad options, and holds native code that may crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from squeeze_export.compilers.ethosu.settings import Choice
from squeeze_export.errors import Refused

TIMEOUT_S = 300.0
"""A SqueezeNet takes one or two seconds."""
MAX_OUTPUT_BYTES = 4_000_000
MAX_MESSAGE_CHARACTERS = 300
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


def run_vela(network: bytes, choice: Choice, folder: Path) -> Output:
    """Compiles a TFLite file.

    Args:
        network: the file.
        choice: for what.
        folder: empty; holds everything that Vela writes.

    Raises:
        Refused: it failed, took too long, or wrote something else than it should; with its last words.
    """
    source, out = folder / f"{_STEM}.tflite", folder / "out"
    source.write_bytes(network)
    log = folder / "output.txt"
    command = _command(source, choice, out)
    with log.open("wb") as output:
        try:
            code = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                timeout=TIMEOUT_S,
            ).returncode
        except subprocess.TimeoutExpired as err:
            raise Refused(f"Vela did not finish within {TIMEOUT_S:g} s for `{choice.accelerator}`") from err
    printed = _last_bytes(log)
    if code:
        raise Refused(f"Vela failed for `{choice.accelerator}`: {_last_words(printed, code)}")
    try:
        return Output(
            (out / f"{_STEM}_vela.tflite").read_bytes(),
            (out / f"{_STEM}_summary_{choice.system_config}.csv").read_text(encoding="utf-8"),
            (out / f"{_STEM}_per-layer.csv").read_text(encoding="utf-8"),
            printed,
        )
    except (OSError, UnicodeDecodeError) as err:
        raise Refused(f"Vela did not write what it should for `{choice.accelerator}`: {_last_words(printed, code)}") from err


def _command(source: Path, choice: Choice, out: Path) -> Sequence[str]:
    return [
        sys.executable,
        "-W",
        "ignore",
        "-m",
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
    ]


def _last_bytes(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - MAX_OUTPUT_BYTES))
        return file.read().decode("utf-8", "replace")


def _last_words(printed: str, code: int) -> str:
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"it was ended by {names.get(-code, f'signal {-code}')}"
    lines = [" ".join(line.split()) for line in printed.splitlines() if line.strip()]
    words = lines[-1].replace("`", "'") if lines else f"exit code {code}"
    return words if len(words) <= MAX_MESSAGE_CHARACTERS else f"{words[:MAX_MESSAGE_CHARACTERS]} ..."
