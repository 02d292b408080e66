"""What a checkpoint's file does not tell about its network, and what is assumed in its place.

A state dict holds tensors. Their shapes tell widths, kernels and classes, and the gaps in their keys where the pools are; they tell
neither strides nor paddings, nor what happens between the layers, nor how an image becomes the input.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from squeeze_export.core import Assumption, Preprocess
from squeeze_export.nets.architecture import Architecture, StructureChoice

PIXELS = ("channel_order", "mean", "std", "resize_px", "crop_px", "interpolation")
"""The fields of `Preprocess` that a file may leave untold."""


def torchvision_name(arch: Architecture) -> str:
    """Whose values an untold structure has: `torchvision's SqueezeNet 1.1`."""
    version = {"squeezenet1_0": " 1.0", "squeezenet1_1": " 1.1"}.get(arch.name, "")
    return f"torchvision's SqueezeNet{version}"


def structure_assumptions(arch: Architecture, told: StructureChoice, why: str) -> tuple[Assumption, ...]:
    """What no tensor shows of an architecture, and the user has not told either.

    Args:
        arch: as assumed.
        told: what the user told.
        why: whose values these are.
    """
    values = {
        "conv1_stride": ("conv1 stride", f"conv1 {arch.conv1_kernel}x{arch.conv1_kernel}/{arch.conv1_stride}"),
        "conv1_pad": ("conv1 padding", f"conv1 pad {arch.conv1_pad}"),
        "final_relu": ("ReLU after conv10", "ReLU after conv10" if arch.final_relu else "no ReLU after conv10"),
        "ceil_pools": ("pools", "ceil pools" if arch.ceil_pools else "floor pools"),
        "conv10_pad": ("conv10 padding", f"conv10 pad {arch.conv10_pad}"),
        "bypass": ("bypass", "no bypass"),
    }
    if arch.bypass != "none" or not simple_bypass_fits(arch):
        del values["bypass"]  # the tensors tell
    return tuple(Assumption(*value, why) for name, value in values.items() if name not in told.given())


def option_for(name: str, value: object) -> str:
    """What to type so that a field of `StructureChoice` has a value: `--conv1-pad 3`."""
    match name:
        case "final_relu":
            return "without --no-final-relu" if value else "--no-final-relu"
        case "ceil_pools":
            return "--pools ceil" if value else "--pools floor"
        case "bypass" if value == "none":
            return "without --bypass"
    return f"--{name.replace('_', '-')} {value}"


def simple_bypass_fits(arch: Architecture) -> bool:
    """Whether a Fire module keeps its channel count, so that a bypass without tensors could go around it."""
    return any(one.channels == next_one.channels for one, next_one in pairwise(arch.fires))


def pixel_assumptions(preprocess: Preprocess, untold: Collection[str], why: str) -> tuple[Assumption, ...]:
    """What was assumed about the way from an image to the input.

    Args:
        preprocess: as assumed.
        untold: its fields that neither the file nor the user told; see `PIXELS`.
        why: whose values these are.
    """
    sizes = {"resize_px": f"short side {preprocess.resize_px}", "crop_px": f"crop {preprocess.size_text}"}
    if preprocess.resize_mode == "stretch":
        del sizes["resize_px"]  # it follows from the crop
    elif set(sizes) <= set(untold):
        sizes = {"resize_px": f"{preprocess.resize_px} -> {preprocess.size_text}"}
    values = {
        "channel_order": ("channel order", f"pixels {preprocess.channel_order.upper()}"),
        "mean": ("mean", f"mean {_numbers(preprocess.mean)}"),
        "std": ("std", f"std {_numbers(preprocess.std)}"),
        **{name: ("input size", value) for name, value in sizes.items()},
        "interpolation": ("interpolation", preprocess.interpolation),
    }
    return tuple(Assumption(*value, why) for name, value in values.items() if name in untold)


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
