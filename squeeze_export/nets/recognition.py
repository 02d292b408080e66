"""Tensor names and shapes to architecture. The names are torchvision's, so pools can be read from the gaps in `features.N`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import FAMILY, Architecture, Bypass, Fire, StructureChoice, tensor_shapes

Shape = tuple[int, ...]

CUSTOM_NAME = "squeezenet_custom"
MAX_CONV1_KERNEL = 15
MAX_CONV1_STRIDE = 8
IMAGE_CHANNELS = (1, 3)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEY = re.compile(r"(features\.0|features\.(\d{1,4})\.(squeeze|expand1x1|expand3x3|bypass)|classifier\.1)\.(weight|bias)")
_PARTS = ("squeeze", "expand1x1", "expand3x3")
_HINT = "the names are torchvision's: `features.0.weight`, `features.3.squeeze.weight` ... `classifier.1.bias`"


def is_torchvision_key(key: str) -> bool:
    """Whether a tensor's name is one of torchvision's for a SqueezeNet."""
    return _KEY.fullmatch(key) is not None


def recognize(shapes: Mapping[str, Shape], *, structure: StructureChoice | None = None) -> Architecture:
    """Infers version, widths, bypass, class count and image channels from a state dict's shapes.

    Args:
        shapes: torchvision's key -> shape, OIHW for weights, in the file's order.
        structure: what the user says about what shapes do not tell. Bypass None is `complex` where bypass convolutions are present
            and `none` elsewhere; the other fields have torchvision's values where they are None.

    Returns:
        The architecture, under its name in the family or `squeezenet_custom`. A pool after the last Fire module leaves no gap
        and is not seen.

    Raises:
        BadInput: a tensor has no place, is missing or misshapen (the first is named), `structure` contradicts the tensors, or a
            value of it is out of range.
    """
    told = structure or StructureChoice()
    indices: set[int] = set()
    for key in shapes:
        found = _KEY.fullmatch(key)
        if found is None or found[2] in ("0", "1", "2"):
            raise BadInput(f"tensor `{key}` has no place in a SqueezeNet", hint=_HINT)
        if found[2] is not None:
            indices.add(int(found[2]))
    order, pools_after = _positions(indices)
    conv1 = _kernel_shape(shapes, "features.0.weight")
    if not 1 <= conv1[2] <= MAX_CONV1_KERNEL:
        raise BadInput(f"tensor `features.0.weight` has a kernel of `{conv1[2]}` px; conv1 takes 1 to {MAX_CONV1_KERNEL}")
    widths = [[_kernel_shape(shapes, f"features.{i}.{part}.weight")[0] for part in _PARTS] for i in order]
    complex_at = {position for position, i in enumerate(order) if f"features.{i}.bypass.weight" in shapes}
    kinds = _bypass_kinds([w[1] + w[2] for w in widths], complex_at, told.bypass)
    fires = tuple(Fire(w[0], w[1], w[2], kind) for w, kind in zip(widths, kinds, strict=True))
    class_count = _kernel_shape(shapes, "classifier.1.weight")[0]
    in_channels = conv1[1] if conv1[1] in IMAGE_CHANNELS else 3
    arch = Architecture(CUSTOM_NAME, conv1[0], conv1[2], fires, pools_after, class_count, in_channels=in_channels)
    check_shapes(arch, shapes)
    arch = told.applied_to(arch)
    check_windows(arch)
    return named(arch)


def named(arch: Architecture) -> Architecture:
    """The same architecture under the name of the family member whose tensors it has, class count and image channels aside.

    An architecture that equals none keeps its own name if that can be a file name and is not one of the family's; otherwise its
    name becomes `squeezenet_custom`.
    """
    for name, member in FAMILY.items():
        same = ("conv1_channels", "conv1_kernel", "fires", "pools_after")
        if all(getattr(arch, field) == getattr(member, field) for field in same):
            return replace(arch, name=name)
    own = _NAME.fullmatch(arch.name) is not None and arch.name not in FAMILY
    return arch if own else replace(arch, name=CUSTOM_NAME)


def check_shapes(arch: Architecture, shapes: Mapping[str, Shape]) -> None:
    """Compares a state dict with its architecture.

    Raises:
        BadInput: the first tensor that is missing, misshapen or superfluous.
    """
    expected = tensor_shapes(arch)
    for key, shape in expected.items():
        if key not in shapes:
            raise BadInput(f"the weights have no tensor `{key}`, which this SqueezeNet needs", hint=_HINT)
        if tuple(shapes[key]) != shape:
            raise BadInput(f"tensor `{key}` has shape `{_text(shapes[key])}` where this SqueezeNet needs `{_text(shape)}`")
    for key in shapes:
        if key not in expected:
            raise BadInput(f"tensor `{key}` has no place in this SqueezeNet", hint=_HINT)


def check_architecture(arch: Architecture) -> None:
    """Checks a description that was read from a file.

    Raises:
        BadInput: a width below 1, a pool where no module is, a simple bypass where the channel count changes, and what
            `check_windows` raises.
    """
    widths = [arch.conv1_channels, arch.class_count, *(w for f in arch.fires for w in (f.squeeze, f.expand1x1, f.expand3x3))]
    if not arch.fires or min(widths) < 1 or not 1 <= arch.conv1_kernel <= MAX_CONV1_KERNEL:
        raise BadInput("the stored architecture has no Fire module, a width below 1, or an impossible conv1")
    pools = arch.pools_after
    if list(pools) != sorted(set(pools)) or any(not 0 <= i < len(arch.fires) for i in pools):
        raise BadInput(f"the stored architecture pools after modules `{pools}`, but has `{len(arch.fires)}`")
    if arch.in_channels not in IMAGE_CHANNELS:
        raise BadInput(f"the stored architecture takes images of `{arch.in_channels}` channels; 1 or 3 are possible")
    check_windows(arch, "the stored architecture")
    for layer in arch.layers():
        if layer.fire is not None and layer.fire.bypass == "simple" and layer.fire.channels != layer.in_channels:
            raise BadInput(
                f"the stored architecture has a simple bypass around `{layer.name}`, which turns `{layer.in_channels}` channels"
                f" into `{layer.fire.channels}`"
            )


def check_windows(arch: Architecture, what: str = "the network") -> None:
    """Checks the strides and paddings, which no tensor shows.

    Raises:
        BadInput: a stride of conv1 outside 1 to 8, a padding of conv1 that is not less than its kernel, a padding of conv10 other
            than 0 or 1.
    """
    if not 1 <= arch.conv1_stride <= MAX_CONV1_STRIDE:
        raise BadInput(f"{what} moves conv1 by `{arch.conv1_stride}` px; 1 to {MAX_CONV1_STRIDE} is possible")
    if not 0 <= arch.conv1_pad < arch.conv1_kernel:
        window = f"with its kernel of {arch.conv1_kernel} px 0 to {arch.conv1_kernel - 1} is possible"
        raise BadInput(f"{what} pads conv1 by `{arch.conv1_pad}`; {window}")
    if arch.conv10_pad not in (0, 1):
        raise BadInput(f"{what} pads conv10 by `{arch.conv10_pad}`; 0 or 1 is possible")


def _positions(indices: set[int]) -> tuple[list[int], tuple[int, ...]]:
    """Fire modules' indices in order, and after which of them one index is left out: there is the pool."""
    order, pools, expected = sorted(indices), [], 3
    if not order:
        raise BadInput("the weights have no tensor `features.3.squeeze.weight`, which a SqueezeNet needs", hint=_HINT)
    for position, index in enumerate(order):
        if index == expected + 1 and position > 0:
            pools.append(position - 1)
        elif index != expected:
            raise BadInput(f"the weights have no tensor `features.{expected}.squeeze.weight`, but have some of `features.{index}`")
        expected = index + 1
    return order, tuple(pools)


def _bypass_kinds(channels: list[int], complex_at: set[int], bypass: Bypass | None) -> list[Bypass]:
    """Which bypass each module has, by Figure 2: complex where there is a convolution, simple where the channels stay."""
    if complex_at and bypass in ("none", "simple"):
        raise BadInput(f"bypass `{bypass}` was asked for, but the weights hold bypass convolutions", hint="use bypass `complex`")
    if bypass == "complex" and not complex_at:
        raise BadInput("bypass `complex` was asked for, but the weights hold no `features.N.bypass.weight`")
    simple = bool(complex_at) or bypass == "simple"
    kinds: list[Bypass] = []
    for position, count in enumerate(channels):
        kept = position > 0 and count == channels[position - 1]
        kinds.append("complex" if position in complex_at else "simple" if simple and kept else "none")
    if bypass == "simple" and "simple" not in kinds:
        raise BadInput("bypass `simple` was asked for, but no Fire module keeps its channel count")
    return kinds


def _kernel_shape(shapes: Mapping[str, Shape], key: str) -> Shape:
    if key not in shapes:
        raise BadInput(f"the weights have no tensor `{key}`, which a SqueezeNet needs", hint=_HINT)
    shape = tuple(shapes[key])
    if len(shape) != 4 or min(shape) < 1:
        raise BadInput(f"tensor `{key}` has shape `{_text(shape)}` where a convolution has four dimensions, none of them 0")
    return shape


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
