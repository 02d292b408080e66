"""Arm Ethos-U: Vela compiles an int8 TFLite file for a microcontroller's NPU, and estimates its cycles and memory.

Nothing here runs the product: that needs a chip, or Arm's simulator. The figures come from Vela's own model of the chip. Arm says
that they serve the compiler's decisions, are not measurements, and must not be compared between different settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from squeeze_export.compilers import Compiled
from squeeze_export.compilers.ethosu.settings import AUTO, DEFAULTS, PACKAGE, STRATEGIES, choices_of
from squeeze_export.compilers.ethosu.vela import finish, start
from squeeze_export.core import Artifact, require
from squeeze_export.errors import BadInput

NAME = "ethosu"
TARGET = "tflite"
SCHEMES = ("int8-npu", "int8")
"""`int8` has its average pool in float, which Vela leaves to the CPU: for its logits, and to see what that costs."""
SUFFIX = "_vela.tflite"
RUNTIMES: tuple[str, ...] = ()
PACKAGES = (PACKAGE,)
CHIPS = tuple(DEFAULTS)
OPTIMISE = (*STRATEGIES, AUTO)
"""What Vela may optimise for; the last is the default."""


def check(chip: str, settings: Mapping[str, str]) -> None:
    """Refuses what is certain to fail; see `Compiler.check`."""
    choices_of(chip, settings)
    require("ai_edge_litert", "ethosu")


def compile_for(artifact: Artifact, chip: str, settings: Mapping[str, str], folder: Path) -> Compiled:
    """Compiles a TFLite file for one accelerator; see `Compiler.compile_for`.

    If no strategy is chosen, Vela runs with both at the same time, and the product with fewer cycles is kept: its estimates are
    made for such decisions.
    """
    if artifact.target != TARGET or artifact.scheme not in SCHEMES:
        given = f"{artifact.target} {artifact.scheme}"
        raise BadInput(f"Vela does not take `{given}`", hint=f"it takes {TARGET} in: {', '.join(SCHEMES)}")
    network = artifact.path.read_bytes()
    choices = {folder / choice.optimise: choice for choice in choices_of(chip, settings)}
    with ExitStack() as stack:
        started = {own: stack.enter_context(start(network, choice, own)) for own, choice in choices.items()}
        made = [finish(process, network, choices[own], own) for own, process in started.items()]
    _, fewest = min(made, key=lambda cycles_and_product: cycles_and_product[0])
    return fewest
