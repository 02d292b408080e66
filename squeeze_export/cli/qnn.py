"""`squeeze-export qnn`: compiles an int8 ONNX file with Qualcomm's library for the Hexagon tensor processor of its SoCs."""

from __future__ import annotations

from typing import Any

import click

from squeeze_export.cli.jobs import COMPILING, chip_option, chosen_chips, compile_and_show, compiled_scheme_option
from squeeze_export.cli.options import Choice, Command, option
from squeeze_export.cli.options.running import EMULATED_IMAGES, ROUNDS, device_option
from squeeze_export.compilers.qnn import CHIPS, NAME, OPTIMISE, SCHEMES
from squeeze_export.errors import BadInput

EMULATOR = "htp-emulator"

OPTIONS = (
    chip_option("--soc", CHIPS, "Chip"),
    option("--int8", is_flag=True, help="The same as --scheme int8, the default."),
    compiled_scheme_option(SCHEMES, "int8 leaves the average pool and the logits in float; int8-npu makes them integers too."),
    option(
        "--finalization-mode",
        type=Choice(OPTIMISE),
        default=OPTIMISE[-1],
        help="How long the compiler may optimize.",
    ),
    option(
        "--no-bias-correction",
        is_flag=True,
        help="v68 and v69: do not correct the biases for their rounding down.",
    ),
    device_option(EMULATOR, "Where to run what was compiled: the emulator, or htp on a chip."),
    ROUNDS,
    EMULATED_IMAGES,
)


@click.command("qnn", cls=Command, params=[*OPTIONS, *COMPILING])
def command(**values: Any) -> int:
    """Compile for Qualcomm Hexagon. Compare the result with the fp32 reference, on Qualcomm's emulator or on the chip.

    The emulator gives the answers and the placement of operators. It cannot tell how fast a chip is, so no time is shown.

    \b
    squeeze-export qnn --int8 --weights squeezenet1_1.pth --calib imgs/ --soc SM8650 --soc SM8850
    """
    if values["int8"] and values["scheme"] != SCHEMES[0]:
        raise BadInput(f"one scheme at a time, not `int8` and `{values['scheme']}`", hint=f"one of: {', '.join(SCHEMES)}")
    chips = chosen_chips(values["soc"], CHIPS)
    correction = {"bias_correction": "off"} if values["no_bias_correction"] else {}
    settings = {"optimise": values["finalization_mode"], **correction}
    return compile_and_show(values, NAME, chips, settings, bench=values["device"] != EMULATOR)
