"""Which network, and what is set of its preprocessing."""

from __future__ import annotations

from typing import Any

import click

from squeeze_export.cli.console import note
from squeeze_export.cli.options import FILE, option
from squeeze_export.core import Progress, silent
from squeeze_export.pipeline.network import Network, PreprocessChoice, open_network

DEMO_NOTE = "no --weights: this is the embedded demo network, 24 drawn classes at 96 px"


class Triple(click.ParamType[tuple[float, float, float]]):
    """Three numbers, one per channel: `123.7,116.3,103.5`."""

    name = "A,B,C"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float, float]:
        """Reads the text, or a list from the settings file."""
        parts = value.split(",") if isinstance(value, str) else value
        try:
            first, second, third = (float(part) for part in parts)
        except (TypeError, ValueError):
            self.fail(f"`{value}` is not three numbers: one per channel, with commas between", param, ctx)
        return (first, second, third)


NETWORK = (
    option(
        "--weights",
        group="Most used",
        metavar="FILE|NAME",
        help="Checkpoint (.pth .safetensors .onnx .net), or squeezenet1_0 or squeezenet1_1 to download torchvision's. "
        "Without it: the embedded demo network.",
    ),
    option(
        "--labels",
        group="Most used",
        type=FILE,
        metavar="FILE",
        help="Class names or WordNet ids, one per line, in the order of the network's outputs.",
    ),
    option(
        "--bypass",
        group="Input",
        type=click.Choice(["simple", "complex"]),
        help="The network's bypass connections. Simple ones have no weights, so no checkpoint shows them.",
    ),
    option(
        "--mean",
        group="Input",
        type=Triple(),
        help="Mean of each channel, for pixels from 0 to 255, in the network's channel order.",
    ),
    option("--std", group="Input", type=Triple(), help="Standard deviation of each channel, likewise."),
    option(
        "--channel-order",
        group="Input",
        type=click.Choice(["rgb", "bgr"]),
        help="The channel order that the network was trained on.",
    ),
    option("--resize", group="Input", type=int, metavar="PX", help="Length of an image's short side after resizing."),
    option("--crop", group="Input", type=int, metavar="PX", help="Side of the centre crop. This is the input size."),
    option(
        "--interpolation",
        group="Input",
        type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos"]),
        help="Filter used for resizing.",
    ),
)


def chosen_network(values: dict[str, Any], progress: Progress = silent) -> Network:
    """Opens the network that a command's values name; stderr says so where none is named."""
    if values["weights"] is None:
        note(DEMO_NOTE)
    return open_network(
        values["weights"],
        preprocess=preprocess_choice(values),
        labels=values["labels"],
        bypass=values["bypass"],
        progress=progress,
    )


def preprocess_choice(values: dict[str, Any]) -> PreprocessChoice:
    """Takes the preprocessing options out of a command's values."""
    return PreprocessChoice(
        resize_px=values["resize"],
        crop_px=values["crop"],
        interpolation=values["interpolation"],
        channel_order=values["channel_order"],
        mean=values["mean"],
        std=values["std"],
    )
