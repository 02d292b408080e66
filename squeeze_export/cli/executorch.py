"""`squeeze-export executorch`: an int8 ONNX file, lowered to a `.pte` by a toolchain that has an environment of its own."""

from __future__ import annotations

from typing import Any

import click

from squeeze_export.cli.compiling import compile_and_show, compile_options
from squeeze_export.cli.options import option
from squeeze_export.compilers.executorch import NAME, SCHEMES
from squeeze_export.pipeline.sessions import RunOptions


def command(name: str) -> click.Command:
    """Makes the command."""
    return _executorch


@click.command("executorch")
@option("--threads", default=RunOptions.threads, show_default=True, help="Threads of every session.")
@option("--rounds", default=RunOptions.rounds, show_default=True, help="Timed inferences of each file.")
@option("--no-bench", is_flag=True, help="Do not time.")
@compile_options
def _executorch(**values: Any) -> int:
    """Lower to ExecuTorch: a .pte for XNNPACK with the integers of the ONNX file, run by ExecuTorch on this CPU.

    \b
    squeeze-export toolchain install executorch
    squeeze-export executorch --weights squeezenet1_1.pth --calib imgs/ --eval val/
    """
    run = RunOptions(threads=values["threads"], rounds=values["rounds"])
    return compile_and_show(values, NAME, (), {}, scheme=SCHEMES[0], run=run, bench=not values["no_bench"])
