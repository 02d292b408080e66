"""`squeeze-export ethosu`: an int8 TFLite file, compiled by Vela for Arm's microcontroller NPUs."""

from __future__ import annotations

import re
from typing import Any

import click

from squeeze_export.cli.compiling import ALL, compile_and_show, compile_options
from squeeze_export.cli.options import FILE, Repeatable, option
from squeeze_export.compilers.ethosu import CHIPS, NAME, OPTIMISE, SCHEMES
from squeeze_export.core import EmitOptions


def command(name: str) -> click.Command:
    """Makes the command."""
    return _ethosu


@click.command("ethosu")
@option(
    "--accelerator",
    type=click.Choice([*CHIPS, ALL]),
    cls=Repeatable,
    multiple=True,
    default=CHIPS[:1],
    show_default=True,
    help="What to compile for; again for more.",
)
@option(
    "--system-config", metavar="NAME", show_default="by accelerator", help="Clock and memories, by name in Vela's configuration."
)
@option("--memory-mode", metavar="NAME", show_default="by accelerator", help="What lies in which memory, likewise.")
@option("--vela-config", type=FILE, metavar="FILE", show_default="Vela's own", help="A vela.ini of yours that defines them.")
@option(
    "--optimise",
    type=click.Choice(OPTIMISE),
    default=OPTIMISE[-1],
    show_default=True,
    help="Vela's strategy; auto tries both and keeps the one of fewer cycles.",
)
@option("--scheme", type=click.Choice(SCHEMES), default=SCHEMES[0], show_default=True, help="int8 leaves its pool to the CPU.")
@option(
    "--input",
    "pixels",
    type=click.Choice(["uint8", "int8"]),
    default="uint8",
    show_default=True,
    help="Type of the pixels; int8 ones are 128 lower and spare the NPU an operator.",
)
@compile_options
def _ethosu(**values: Any) -> int:
    """Compile for Arm Ethos-U with Vela: files, and Vela's estimates of cycles and memory.

    The file that is compiled is compared with the fp32 reference on this CPU. Nothing here runs the compiled ones.

    \b
    squeeze-export ethosu --weights squeezenet1_1.pth --calib imgs/ --accelerator ethos-u55-128 --accelerator ethos-u85-256
    """
    chosen = {"system_config": "system_config", "memory_mode": "memory_mode", "config": "vela_config", "optimise": "optimise"}
    settings = {name: str(values[option]) for name, option in chosen.items() if values[option] is not None}
    chips = sorted(CHIPS, key=_size) if ALL in values["accelerator"] else values["accelerator"]
    return compile_and_show(values, NAME, chips, settings, scheme=values["scheme"], form=EmitOptions(input_dtype=values["pixels"]))


def _size(chip: str) -> list[int]:
    """`ethos-u55-128` -> 55 and 128."""
    return [int(number) for number in re.findall(r"\d+", chip)]
