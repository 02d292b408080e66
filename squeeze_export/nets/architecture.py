"""The SqueezeNet family as data.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", arXiv:1602.07360:
Table 1 (v1.0), Figure 2 (bypass), section 5.1 (the metaparameters). v1.1 is the authors' own later release; the key names
are torchvision's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from squeeze_export.errors import BadInput, did_you_mean

Bypass = Literal["none", "simple", "complex"]


@dataclass(frozen=True)
class Fire:
    """A Fire module: squeeze 1x1, then expand 1x1 and expand 3x3 side by side, concatenated.

    Attributes:
        squeeze: output channels of the squeeze.
        expand1x1: output channels of the 1x1 expand.
        expand3x3: output channels of the 3x3 expand.
        bypass: `simple` adds the module's input to its output; `complex` sends it through a 1x1 convolution first.
    """

    squeeze: int
    expand1x1: int
    expand3x3: int
    bypass: Bypass = "none"

    @property
    def channels(self) -> int:
        """Output channels of the module."""
        return self.expand1x1 + self.expand3x3


@dataclass(frozen=True)
class Architecture:
    """One member of the family.

    Attributes:
        name: as in torchvision where torchvision has it.
        conv1_channels: filters of conv1.
        conv1_kernel: its side, pixels (7 in v1.0, 3 in v1.1).
        fires: the Fire modules, fire2 first.
        pools_after: indices into `fires`; a 3x3 stride-2 max-pool follows each of these. One always follows conv1.
        class_count: outputs of conv10.
        conv10_pad: zero padding of conv10: 0, but 1 in the authors' own training files.
        conv1_stride: 2 in the paper and in torchvision; 1 is usual for small images.
        conv1_pad: zero padding of conv1, in the normalized domain; 0 in torchvision.
        ceil_pools: whether a pool's last window may hang over the map's edge (torch's `ceil_mode`), as in Caffe and torchvision.
        final_relu: whether a ReLU follows conv10, as in the paper and in torchvision.
        in_channels: of the image: 3, or 1 for a grey one.
    """

    name: str
    conv1_channels: int
    conv1_kernel: int
    fires: tuple[Fire, ...]
    pools_after: tuple[int, ...]
    class_count: int
    conv10_pad: int = 0
    conv1_stride: int = 2
    conv1_pad: int = 0
    ceil_pools: bool = True
    final_relu: bool = True
    in_channels: int = 3

    @property
    def bypass(self) -> Bypass:
        """The richest bypass found in any module."""
        kinds = {fire.bypass for fire in self.fires}
        return "complex" if "complex" in kinds else "simple" if "simple" in kinds else "none"

    def layers(self) -> Iterator[Layer]:
        """Walks the feature extractor in torchvision's order.

        Yields:
            conv1, then its pool, the Fire modules and the pools between them, each with torchvision's index in `features`.
        """
        yield Layer("conv1", 0, "conv1", self.in_channels, None)
        yield Layer("pool1", 2, "pool", self.conv1_channels, None)
        index, channels = 3, self.conv1_channels
        for position, fire in enumerate(self.fires):
            yield Layer(f"fire{position + 2}", index, "fire", channels, fire)
            index, channels = index + 1, fire.channels
            if position in self.pools_after:
                yield Layer(f"pool{position + 2}", index, "pool", channels, None)
                index += 1

    @property
    def feature_channels(self) -> int:
        """Input channels of conv10."""
        return self.fires[-1].channels if self.fires else self.conv1_channels

    def to_json(self) -> dict[str, Any]:
        """The description as JSON values; `architecture_from_json` reads it back."""
        return asdict(self)


@dataclass(frozen=True)
class StructureChoice:
    """What a state dict does not tell about its network, as the user tells it; None: as the file tells, or torchvision.

    Attributes are those of `Architecture`; `bypass` is `simple`, which has no tensors of its own, or what the tensors say anyway.
    """

    conv1_stride: int | None = None
    conv1_pad: int | None = None
    final_relu: bool | None = None
    ceil_pools: bool | None = None
    conv10_pad: int | None = None
    bypass: Bypass | None = None

    def given(self) -> dict[str, Any]:
        """Field -> value, of those that the user told."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def applied_to(self, arch: Architecture) -> Architecture:
        """The architecture with what was told, bypass aside: that is part of the Fire modules."""
        return replace(arch, **{name: value for name, value in self.given().items() if name != "bypass"})


@dataclass(frozen=True)
class Layer:
    """One entry of torchvision's `features`: its paper name, its index there, its kind, its input channels, its module."""

    name: str
    index: int
    kind: Literal["conv1", "pool", "fire"]
    in_channels: int
    fire: Fire | None


def fire_modules(
    *,
    count: int = 8,
    base_e: int = 128,
    incr_e: int = 128,
    freq: int = 2,
    pct3x3: float = 0.5,
    squeeze_ratio: float = 0.125,
    bypass: Bypass = "none",
) -> tuple[Fire, ...]:
    """Fire modules from the paper's metaparameters (section 5.1): e_i = base_e + incr_e * floor(i / freq).

    Args:
        count: modules, at least 1.
        base_e: expand filters of the first module.
        incr_e: expand filters added every `freq` modules.
        freq: modules of one width, at least 1.
        pct3x3: share of the expand filters that are 3x3, strictly between 0 and 1.
        squeeze_ratio: squeeze filters over expand filters, in (0, 1].
        bypass: `simple` goes around every second module (fire3, 5, 7, 9), `complex` around all where channels change.

    Raises:
        BadInput: a metaparameter out of its range.
    """
    if count < 1 or base_e < 2 or incr_e < 0 or freq < 1:
        raise BadInput(f"Fire modules cannot be made from count `{count}`, base_e `{base_e}`, incr_e `{incr_e}`, freq `{freq}`")
    if not 0 < pct3x3 < 1 or not 0 < squeeze_ratio <= 1:
        raise BadInput(f"pct3x3 `{pct3x3}` must lie in (0, 1) and the squeeze ratio `{squeeze_ratio}` in (0, 1]")
    fires = []
    for i in range(count):
        expand = base_e + incr_e * (i // freq)
        expand3x3 = min(max(round(expand * pct3x3), 1), expand - 1)
        fires.append(Fire(max(round(expand * squeeze_ratio), 1), expand - expand3x3, expand3x3))
    return _with_bypass(tuple(fires), bypass)


def _with_bypass(fires: tuple[Fire, ...], bypass: Bypass) -> tuple[Fire, ...]:
    """Figure 2: a simple bypass where a module keeps the channel count, a 1x1 convolution (complex only) where it does not."""
    result: list[Fire] = []
    previous: int | None = None
    for fire in fires:
        kind: Bypass = "none"
        if bypass != "none":
            kind = "simple" if fire.channels == previous else "complex" if bypass == "complex" else "none"
        result.append(replace(fire, bypass=kind))
        previous = fire.channels
    return tuple(result)


_FIRES = fire_modules()
_V1_0 = Architecture("squeezenet1_0", 96, 7, _FIRES, (2, 6), 1000)
_V1_1 = Architecture("squeezenet1_1", 64, 3, _FIRES, (1, 3), 1000)

FAMILY: Mapping[str, Architecture] = {
    "squeezenet1_0": _V1_0,
    "squeezenet1_1": _V1_1,
    "squeezenet1_0_simple_bypass": replace(_V1_0, name="squeezenet1_0_simple_bypass", fires=_with_bypass(_FIRES, "simple")),
    "squeezenet1_0_complex_bypass": replace(_V1_0, name="squeezenet1_0_complex_bypass", fires=_with_bypass(_FIRES, "complex")),
}


def architecture(name: str, *, class_count: int | None = None) -> Architecture:
    """A member of the family by name.

    Raises:
        BadInput: the name is not in `FAMILY`.
    """
    if name not in FAMILY:
        raise BadInput(f"no architecture is called `{name}`", hint=did_you_mean(name, FAMILY))
    found = FAMILY[name]
    return found if class_count is None else replace(found, class_count=class_count)


def architecture_from_json(values: Mapping[str, Any]) -> Architecture:
    """Reads back `Architecture.to_json`.

    Raises:
        BadInput: a field is missing or not what it should be.
    """
    try:
        return Architecture(
            str(values["name"]),
            int(values["conv1_channels"]),
            int(values["conv1_kernel"]),
            tuple(_fire(fire) for fire in values["fires"]),
            tuple(int(i) for i in values["pools_after"]),
            int(values["class_count"]),
            int(values["conv10_pad"]),
            int(values.get("conv1_stride", 2)),  # files of earlier versions have none of these
            int(values.get("conv1_pad", 0)),
            _flag(values.get("ceil_pools", True)),
            _flag(values.get("final_relu", True)),
            int(values.get("in_channels", 3)),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as err:
        raise BadInput(f"the stored architecture cannot be read: {err!r}") from err


def _fire(values: Mapping[str, Any]) -> Fire:
    if values["bypass"] not in get_args(Bypass):
        raise ValueError(f"bypass `{values['bypass']}`")
    return Fire(int(values["squeeze"]), int(values["expand1x1"]), int(values["expand3x3"]), values["bypass"])


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"`{value}` is neither true nor false")
    return value


def tensor_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """The state dict that belongs to an architecture.

    Returns:
        torchvision's key -> shape, OIHW for weights, in torchvision's order. A complex bypass is `features.N.bypass`.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(key: str, out_channels: int, in_channels: int, kernel: int) -> None:
        shapes[f"{key}.weight"] = (out_channels, in_channels, kernel, kernel)
        shapes[f"{key}.bias"] = (out_channels,)

    for layer in arch.layers():
        key = f"features.{layer.index}"
        if layer.kind == "conv1":
            conv(key, arch.conv1_channels, layer.in_channels, arch.conv1_kernel)
        elif layer.fire is not None:
            fire = layer.fire
            conv(f"{key}.squeeze", fire.squeeze, layer.in_channels, 1)
            conv(f"{key}.expand1x1", fire.expand1x1, fire.squeeze, 1)
            conv(f"{key}.expand3x3", fire.expand3x3, fire.squeeze, 3)
            if fire.bypass == "complex":
                conv(f"{key}.bypass", fire.channels, layer.in_channels, 1)
    conv("classifier.1", arch.class_count, arch.feature_channels, 1)
    return shapes
