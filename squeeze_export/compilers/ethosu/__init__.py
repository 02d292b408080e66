"""Arm Ethos-U: Vela compiles an int8 TFLite file for a microcontroller's NPU, and estimates its cycles and memory.

Nothing here runs the product: it needs a chip, or Arm's simulator of one. The figures are Vela's own model of the chip. Arm says of
them that they serve the compiler's decisions, are no measurement, and are not to be compared between different settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from squeeze_export.compilers import Compiled
from squeeze_export.compilers.ethosu.figures import estimate_of
from squeeze_export.compilers.ethosu.operators import placement_of
from squeeze_export.compilers.ethosu.settings import (
    AUTO,
    DEFAULTS,
    PACKAGE,
    STRATEGIES,
    VelaSettings,
    choices_of,
    installed_version,
)
from squeeze_export.compilers.ethosu.vela import Output, Vela
from squeeze_export.core import Artifact, require
from squeeze_export.errors import BadInput

NAME = "ethosu"
TARGET = "tflite"
SCHEMES = ("int8-npu", "int8")
"""`int8` has its average pool in float, which Vela leaves to the CPU: for those who want its logits, and to see what it costs."""
SUFFIX = "_vela.tflite"
RUNTIMES: tuple[str, ...] = ()
PACKAGES = (PACKAGE,)
CHIPS = tuple(DEFAULTS)
OPTIMISE = (*STRATEGIES, AUTO)
"""What Vela may be told to aim for; the last is the default."""


def check(chip: str, settings: Mapping[str, str]) -> None:
    """Refuses what can be known to fail; see `Compiler.check`."""
    choices_of(chip, settings)
    require("ai_edge_litert", "ethosu")


def compile_for(artifact: Artifact, chip: str, settings: Mapping[str, str], folder: Path) -> Compiled:
    """Compiles a TFLite file for one accelerator; see `Compiler.compile_for`.

    Where no strategy is asked for, Vela runs with both, at the same time, and the product with fewer cycles is kept: its estimates
    serve just such decisions of the compiler.
    """
    if artifact.target != TARGET or artifact.scheme not in SCHEMES:
        given = f"{artifact.target} {artifact.scheme}"
        raise BadInput(f"Vela does not take `{given}`", hint=f"it takes {TARGET} in: {', '.join(SCHEMES)}")
    choices, network = choices_of(chip, settings), artifact.path.read_bytes()
    with ExitStack() as stack:
        started = [stack.enter_context(Vela(network, choice, _made(folder / choice.optimise))) for choice in choices]
        made = [_compiled(network, choice, vela.output()) for choice, vela in zip(choices, started, strict=True)]
    _, fewest = min(made, key=lambda cycles_and_product: cycles_and_product[0])
    return fewest


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _compiled(network: bytes, choice: VelaSettings, output: Output) -> tuple[int, Compiled]:
    """Cycles and product of one strategy."""
    placement = placement_of(network, output.content, output.printed)
    estimate = estimate_of(output.summary, output.layers, choice, version=installed_version())
    return estimate.cycles, Compiled(output.content, choice.facts(), placement, estimate)
