"""`squeeze-export ethosu`: compiles an int8 TFLite file with Vela for Arm's microcontroller NPUs."""

from __future__ import annotations

import re
from typing import Any

import click

from squeeze_export.cli.jobs import COMPILING, chip_option, chosen_chips, compile_and_show, compiled_scheme_option
from squeeze_export.cli.options import FILE, Choice, Command, option
from squeeze_export.compilers.ethosu import CHIPS, NAME, OPTIMISE, SCHEMES

OPTIONS = (
    chip_option("--accelerator", CHIPS, "NPU"),
    option(
        "--system-config",
        metavar="NAME",
        show_default="by accelerator",
        help="Clock and memories: a name in Vela's configuration.",
    ),
    option(
        "--memory-mode", metavar="NAME", show_default="by accelerator", help="Which data lie in which memory: a name, likewise."
    ),
    option("--vela-config", "config", type=FILE, show_default="Vela's own", help="A vela.ini of yours that defines these names."),
    option(
        "--optimise",
        type=Choice(OPTIMISE),
        default=OPTIMISE[-1],
        help="Vela's strategy. auto tries both and keeps the one that needs fewer cycles.",
    ),
    compiled_scheme_option(SCHEMES, "int8 leaves the average pool to the CPU."),
    option(
        "--input",
        "input_dtype",
        type=Choice(["uint8", "int8"]),
        default="uint8",
        help="Type of the pixels. As int8 they are 128 lower, which saves the NPU an operator.",
    ),
)


@click.command("ethosu", cls=Command, params=[*OPTIONS, *COMPILING])
def command(**values: Any) -> int:
    """Compile for Arm Ethos-U with Vela, and show Vela's estimates of cycles and memory.

    The file that Vela compiles is compared with the fp32 reference on this CPU. The compiled files are not run.

    \b
    squeeze-export ethosu --weights squeezenet1_1.pth --calib imgs/ --accelerator ethos-u55-128 --accelerator ethos-u85-256
    """
    names = ("system_config", "memory_mode", "config", "optimise")
    settings = {name: str(values[name]) for name in names if values[name] is not None}
    chips = chosen_chips(values["accelerator"], sorted(CHIPS, key=_size))
    return compile_and_show(values, NAME, chips, settings, bench=False)


def _size(chip: str) -> list[int]:
    """`ethos-u55-128` -> 55 and 128."""
    return [int(number) for number in re.findall(r"\d+", chip)]
