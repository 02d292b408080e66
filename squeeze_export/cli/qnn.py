"""`squeeze-export qnn`: an int8 ONNX file, compiled by Qualcomm's library for the Hexagon tensor processor of its SoCs."""

from __future__ import annotations

from typing import Any

import click

from squeeze_export.cli.compiling import ALL, compile_and_show, compile_options
from squeeze_export.cli.options import Repeatable, option
from squeeze_export.compilers.qnn import CHIPS, NAME, OPTIMISE, SCHEMES
from squeeze_export.errors import BadInput
from squeeze_export.pipeline.sessions import RunOptions

EMULATOR = "htp-emulator"


def command(name: str) -> click.Command:
    """Makes the command."""
    return _qnn


@click.command("qnn")
@option(
    "--soc",
    type=click.Choice([*CHIPS, ALL]),
    cls=Repeatable,
    multiple=True,
    default=CHIPS[:1],
    show_default=True,
    help="What to compile for; again for more.",
)
@option("--int8", is_flag=True, help="8-bit weights and activations: --scheme int8, the default.")
@option("--scheme", type=click.Choice(SCHEMES), default=SCHEMES[0], show_default=True, help="int8-npu: pool and logits too.")
@option(
    "--finalization-mode",
    type=click.Choice(OPTIMISE),
    default=OPTIMISE[-1],
    show_default=True,
    help="How long the compiler may look.",
)
@option("--no-bias-correction", is_flag=True, help="Leave what the HTP of v68 and v69 rounds down as it is.")
@option("--device", default=EMULATOR, show_default=True, metavar="NAME", help="Where to run what was compiled; on a chip, htp.")
@option("--rounds", default=RunOptions.rounds, show_default=True, help="Timed inferences of each file, on htp.")
@option("--emulated-images", default=RunOptions.emulated_images, show_default=True, metavar="N", help="Images for the emulator.")
@compile_options
def _qnn(**values: Any) -> int:
    """Compile for Qualcomm Hexagon, and compare what was compiled with the fp32 reference on its emulator, or on the chip.

    The emulator's figures are emulated: answers and placement. How fast a chip is, it cannot tell, and no time is shown.

    \b
    squeeze-export qnn --int8 --weights squeezenet1_1.pth --calib imgs/ --soc SM8650 --soc SM8850
    """
    if values["int8"] and values["scheme"] != SCHEMES[0]:
        raise BadInput(f"one scheme at a time, not `int8` and `{values['scheme']}`", hint=f"one of: {', '.join(SCHEMES)}")
    run = RunOptions(device=values["device"], rounds=values["rounds"], emulated_images=values["emulated_images"])
    chips = CHIPS if ALL in values["soc"] else values["soc"]
    correction = {"bias_correction": "off"} if values["no_bias_correction"] else {}
    settings = {"optimise": values["finalization_mode"], **correction}
    return compile_and_show(values, NAME, chips, settings, scheme=values["scheme"], run=run, bench=values["device"] != EMULATOR)
