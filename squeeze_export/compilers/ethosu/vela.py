"""Vela in its own process: it prints a lot, ends its process on bad options, and holds native code that may crash."""

from __future__ import annotations

import os
from pathlib import Path

from squeeze_export.compilers import Compiled
from squeeze_export.compilers.ethosu.figures import estimate_of
from squeeze_export.compilers.ethosu.operators import placement_of
from squeeze_export.compilers.ethosu.settings import VelaSettings, installed_version
from squeeze_export.errors import Refused
from squeeze_export.workers.process import Process, our_python

TIMEOUT_S = 300.0
"""A SqueezeNet takes one or two seconds."""
MAX_OUTPUT_BYTES = 4_000_000
_STEM = "network"


def start(network: bytes, choice: VelaSettings, folder: Path) -> Process:
    """Starts Vela on a TFLite file, in a new folder that holds everything it writes."""
    folder.mkdir()
    source = folder / f"{_STEM}.tflite"
    source.write_bytes(network)
    options = {
        "--config": str(choice.config),
        "--accelerator-config": choice.accelerator,
        "--system-config": choice.system_config,
        "--memory-mode": choice.memory_mode,
        "--optimise": choice.optimise,
        "--output-dir": str(folder / "out"),
    }
    flags = ("--verbose-performance", "--show-cpu-operations")  # a CSV file per layer; why an operator stays on the CPU
    command = our_python("ethosu.vela", *(word for option in options.items() for word in option), *flags, str(source))
    return Process(command, cwd=folder, environment={**os.environ, "TMPDIR": str(folder)}, log=folder / "output.txt")


def finish(process: Process, network: bytes, choice: VelaSettings, folder: Path) -> tuple[int, Compiled]:
    """Waits for what `start` started, and reads what it wrote.

    Returns:
        The estimated cycles, and the product.

    Raises:
        Refused: it failed, took too long, or did not write the expected files; with the last line of its output.
    """
    tool, out = f"Vela for `{choice.accelerator}`", folder / "out"
    try:
        code = process.wait(TIMEOUT_S)
    except TimeoutError as err:
        raise Refused(f"{tool} did not finish within {TIMEOUT_S:g} s") from err
    if code:
        raise Refused(f"{tool} failed: {process.last_words()}")
    try:
        content = (out / f"{_STEM}_vela.tflite").read_bytes()
        summary = (out / f"{_STEM}_summary_{choice.system_config}.csv").read_text(encoding="utf-8")
        layers = (out / f"{_STEM}_per-layer.csv").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise Refused(f"{tool} did not write what it should: {process.last_words()}") from err
    placement = placement_of(network, content, process.printed(MAX_OUTPUT_BYTES))
    estimate = estimate_of(summary, layers, choice, version=installed_version())
    return estimate.cycles, Compiled(content, choice.facts(), placement, estimate)
