"""ExecuTorch: lowers an int8 ONNX file to a `.pte` for XNNPACK, with the same integers.

PyTorch's own quantizer would measure the ranges again. Here the program holds the integers, scales and zero points of the file, so
nothing is left to quantize, and ExecuTorch's partitioner hands it to XNNPACK unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from squeeze_export.compilers import Compiled
from squeeze_export.compilers.executorch.network import read_network
from squeeze_export.core import Artifact
from squeeze_export.errors import BadInput, Refused, did_you_mean
from squeeze_export.workers import executorch
from squeeze_export.workers.environments import check_installed, start
from squeeze_export.workers.executorch.placement import COMPILE_LIMIT_S, PRODUCT, placement_of

NAME = "executorch"
TARGET = "onnx"
SCHEMES = ("int8",)
SUFFIX = ".pte"
RUNTIMES = ("executorch",)
PACKAGES = ("executorch",)
CHIPS = ("xnnpack",)


def check(chip: str, settings: Mapping[str, str]) -> None:
    """Refuses other back ends than XNNPACK, any setting, and a missing toolchain; see `Compiler.check`."""
    if chip not in CHIPS:
        raise BadInput(f"executorch does not lower to `{chip}` here", hint=did_you_mean(chip, CHIPS))
    if settings:
        raise BadInput(f"executorch has no setting `{next(iter(settings))}`")
    check_installed(executorch)


def compile_for(artifact: Artifact, chip: str, settings: Mapping[str, str], folder: Path) -> Compiled:
    """Lowers an artifact; see `Compiler.compile_for`.

    Raises:
        Refused: also if layers are kept in float, or a convolution would not run in integers.
    """
    check(chip, settings)
    if artifact.provenance.get("kept_float"):
        raise Refused("executorch files carry no layers kept in float", hint="a table without --keep-float")
    values, arrays = read_network(artifact.path)
    with start(executorch) as worker:
        answer, _ = worker.ask("compile_network", values, arrays, limit_s=COMPILE_LIMIT_S)
        placement = placement_of(answer)
        if placement.fallbacks or placement.integer_mac_share < 1:
            named = ", ".join(placement.fallbacks[:3]) or "a convolution"
            raise Refused(f"executorch left XNNPACK's integers: {named}")
        content = worker.read(PRODUCT)
    return Compiled(content, {"executorch": executorch.VERSION}, placement)
