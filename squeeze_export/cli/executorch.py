"""`squeeze-export executorch`: lowers an int8 ONNX file to a `.pte`, with a toolchain in an environment of its own."""

from __future__ import annotations

from typing import Any

import click

from squeeze_export.cli.jobs import COMPILING, compile_and_show
from squeeze_export.cli.options import Command
from squeeze_export.cli.options.running import NO_BENCH, ROUNDS, THREADS
from squeeze_export.compilers.executorch import NAME, SCHEMES


@click.command("executorch", cls=Command, params=[THREADS, ROUNDS, *COMPILING, NO_BENCH])
def command(**values: Any) -> int:
    """Lower to ExecuTorch: a .pte for XNNPACK with the integers of the ONNX file, run by ExecuTorch on this CPU.

    \b
    squeeze-export toolchain install executorch
    squeeze-export executorch --weights squeezenet1_1.pth --calib imgs/ --eval val/
    """
    return compile_and_show(values, NAME, scheme=SCHEMES[0])
