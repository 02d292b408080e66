"""The network and its preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from squeeze_export.cli.console import note
from squeeze_export.cli.options import FILE, Choice, Numbers, call_with, option
from squeeze_export.cli.options.completion import Weights
from squeeze_export.core import Progress, silent
from squeeze_export.pipeline import StructureChoice
from squeeze_export.pipeline.evaluation import check_top1
from squeeze_export.pipeline.network import Network, PreprocessChoice, open_network
from squeeze_export.report.wording import assumption_line

DEMO_NOTE = "no --weights: this is the embedded demo network, 24 drawn classes at 96 px"

_input = partial(option, group="Input")
_untold = partial(option, group="Untold by a state dict")
_PER_CHANNEL = Numbers("A,B,C", float, "one number per channel, with commas between")


class Crop(click.ParamType[int | tuple[int, int]]):
    """A side in pixels, or height and width as `HxW`."""

    name = "PX|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, int]:
        """Reads the text, or the settings file's number."""
        height, times, width = str(value).lower().partition("x")
        try:
            return (int(height), int(width)) if times else int(height)
        except ValueError:
            self.fail(f"`{value}` is neither a side in pixels nor height and width, such as `96x128`", param, ctx)


LIKE = (
    _untold(
        "--like",
        type=FILE,
        help="A float ONNX file of the same network: all that follows is taken from its graph. Or the sidecar (.json) of a file "
        "exported from it: preprocessing and labels too.",
    ),
    _untold("--expect", type=FILE, help="An .npz file with an image and your own network's logits, which the reference must give."),
)
STRUCTURE = (
    _untold("--conv1-stride", type=click.IntRange(1), metavar="N", help="Stride of the first convolution."),
    _untold("--conv1-pad", type=click.IntRange(0), metavar="N", help="Zero padding of the first convolution, in pixels."),
    _untold("--pools", type=Choice(["ceil", "floor"]), help="How the max-pools round: `ceil` is torch's ceil_mode=True."),
    _untold("--no-final-relu", is_flag=True, help="No ReLU follows the last convolution."),
    _untold("--conv10-pad", type=click.IntRange(0, 1), metavar="N", help="Zero padding of the last convolution, in pixels."),
    _untold(
        "--bypass",
        type=Choice(["simple", "complex"]),
        help="The network's bypass connections. Simple ones have no weights, so no checkpoint shows them.",
    ),
)
"""What a state dict does not tell; `structure_choice` reads their values."""

PREPROCESSING = (
    _input("--mean", type=_PER_CHANNEL, help="Mean of each channel, for pixels from 0 to 255, in the network's channel order."),
    _input("--std", type=_PER_CHANNEL, help="Standard deviation of each channel, likewise."),
    _input("--channel-order", type=Choice(["rgb", "bgr"]), help="The channel order that the network was trained on."),
    _input("--resize", "resize_px", type=int, metavar="PX", help="Length of an image's short side after resizing."),
    _input(
        "--crop",
        "crop_px",
        type=Crop(),
        metavar="PX|HxW",
        help="Side of the centre crop, or its height and width. This is the input size.",
    ),
    _input(
        "--resize-mode",
        type=Choice(["short-side", "stretch"]),
        help="`stretch` gives up the image's ratio for the crop's; without --resize nothing is then cut off.",
    ),
    _input(
        "--interpolation",
        type=Choice(["nearest", "bilinear", "bicubic", "lanczos"]),
        help="Filter used for resizing.",
    ),
)
"""Named after the fields of `PreprocessChoice`."""

NETWORK = (
    option(
        "--weights",
        group="Most used",
        type=Weights(),
        metavar="FILE|NAME",
        help="Checkpoint (torch.save's, .safetensors, .onnx, .net), or squeezenet1_0 or squeezenet1_1 to download torchvision's. "
        "Without it: the embedded demo network.",
    ),
    option(
        "--labels",
        group="Most used",
        type=FILE,
        help="Class names, such as one per line in the order of the network's outputs; synset_words.txt and JSON are read too.",
    ),
    _input("--classes", type=FILE, help="Names that the class folders of images go by, where they differ from --labels."),
    *LIKE,
    *STRUCTURE,
    _input(
        "--checkpoint-key",
        metavar="KEY",
        help="Which network to read where a checkpoint holds several, such as `state_dict_ema`: the keys that lead to it.",
    ),
    *PREPROCESSING,
)


def chosen_network(values: dict[str, Any], progress: Progress = silent) -> Network:
    """Opens the network that a command's values name. On stderr: if it is the demo network, and what is told of its reading."""
    if values["weights"] is None:
        note(DEMO_NOTE)
    given = {"preprocess": call_with(PreprocessChoice, values), "structure": structure_choice(values), "progress": progress}
    network = call_with(open_network, {**values, **given})
    tell_reading(network)
    if values.get("expect_top1") is not None:
        check_top1(network, values["evaluation"], values["expect_top1"], skip_broken=values["skip_broken"], progress=progress)
    return network


def structure_choice(values: Mapping[str, Any]) -> StructureChoice:
    """What the options of `STRUCTURE` tell."""
    pools, no_relu = values["pools"], values["no_final_relu"]
    ceil_pools, final_relu = None if pools is None else pools == "ceil", False if no_relu else None
    return call_with(StructureChoice, {**values, "ceil_pools": ceil_pools, "final_relu": final_relu})


def tell_reading(network: Network) -> None:
    """What reading left out or changed, and what was assumed about the network: lines on stderr."""
    for text in network.notes:
        note(text)
    if network.assumptions:
        note(assumption_line(network.assumptions))
