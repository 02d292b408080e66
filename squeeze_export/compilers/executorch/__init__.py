"""ExecuTorch: a `.pte` for XNNPACK, out of an int8 ONNX file and with its integers.

The usual way is PyTorch's own quantizer, which measures ranges anew. Here the program is written with the integers, scales and zero
points of the file in it, so that nothing is left to quantize; ExecuTorch's partitioner gives it to XNNPACK as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from squeeze_export.compilers import Compiled
from squeeze_export.compilers.executorch.network import read_network
from squeeze_export.core import Artifact, Placement
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.workers import executorch
from squeeze_export.workers.environments import is_installed, start
from squeeze_export.workers.executorch.placement import COMPILE_LIMIT_S, PRODUCT, placement_of

NAME = "executorch"
TARGET = "onnx"
SCHEMES = ("int8",)
SUFFIX = ".pte"
RUNTIMES = ("executorch",)
PACKAGES = ("executorch",)
CHIPS = ("xnnpack",)
KEPT_FLOAT = "kept_float"


def check(chip: str, settings: Mapping[str, str]) -> None:
    """Refuses another back end than XNNPACK, any setting, and work without the toolchain."""
    if chip not in CHIPS:
        raise BadInput(f"executorch does not lower to `{chip}` here", hint=f"one of: {', '.join(CHIPS)}")
    if settings:
        raise BadInput(f"executorch has no setting `{next(iter(settings))}`")
    if not is_installed(executorch):
        raise Unavailable("the toolchain `executorch` is not installed", hint="squeeze-export toolchain install executorch")


def compile_for(artifact: Artifact, chip: str, settings: Mapping[str, str], folder: Path) -> Compiled:
    """Lowers an artifact; see `Compiler.compile_for`.

    Raises:
        Refused: also where layers are kept in float, or a convolution would not run in integers.
    """
    check(chip, settings)
    if artifact.provenance.get(KEPT_FLOAT):
        raise Refused("executorch files carry no layers kept in float", hint="a table without --keep-float")
    values, arrays = read_network(artifact.path)
    with start(executorch) as worker:
        answer, _ = worker.ask("compile_network", values, arrays, limit_s=COMPILE_LIMIT_S)
        placement = placement_of(answer)
        _check_integers(placement)
        content = worker.read(PRODUCT)
    return Compiled(content, {"executorch": executorch.VERSION}, placement)


def _check_integers(placement: Placement) -> None:
    if placement.fallbacks or placement.integer_mac_share < 1:
        named = ", ".join(placement.fallbacks[:3]) or "a convolution"
        raise Refused(f"executorch left XNNPACK's integers: {named}")
