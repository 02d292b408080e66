"""`squeeze-export NAME` for the compilers of other distributions."""

from __future__ import annotations

from typing import Any

import click

from squeeze_export.cli.jobs import COMPILING, chip_option, chosen_chips, compile_and_show, compiled_scheme_option
from squeeze_export.cli.options import Command
from squeeze_export.cli.options.running import NO_BENCH, ROUNDS, THREADS
from squeeze_export.compilers import compiler_named


def command(name: str) -> click.Command:
    """The command of one compiler."""
    compiler = compiler_named(name)

    def compile_(**values: Any) -> int:
        bench = bool(compiler.RUNTIMES) and not values["no_bench"]
        return compile_and_show(values, name, chosen_chips(values["chip"], compiler.CHIPS), bench=bench)

    text = f"Compile for {name}, and compare the result with the fp32 reference where something here runs it."
    example = f"\b\nsqueeze-export {name} --weights squeezenet1_1.pth --calib imgs/ --chip {compiler.CHIPS[0]}"
    own = (
        chip_option("--chip", compiler.CHIPS, "Chip"),
        compiled_scheme_option(compiler.SCHEMES, "Scheme of the file that is compiled."),
    )
    return Command(name, callback=compile_, help=f"{text}\n\n{example}", params=[*own, THREADS, ROUNDS, *COMPILING, NO_BENCH])
