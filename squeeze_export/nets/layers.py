"""Which tensor is which layer, whatever the names: by the shapes, the groups that the names make, and their order.

A SqueezeNet is a first convolution, Fire modules (three convolutions each, four with a bypass) and a head. The names of a module's
tensors begin alike (`fire2.`, `features.3.`, `features.stage1.unit1.`), and the channels of one layer are the inputs of the next.
A network that fits in two ways is refused.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from squeeze_export.nets.architecture import FAMILY
from squeeze_export.nets.stored import Shape

MAX_CONVOLUTIONS = 512
IMAGE_CHANNELS = (1, 3)
Tokens = tuple[str, ...]


class NoMatch(Exception):
    """The tensors are no SqueezeNet's, or not surely; the text says why, to go on after `FILE`."""


@dataclass(frozen=True)
class FireKeys:
    """A Fire module's layers by name, without `.weight`; `bypass` is None where no convolution is."""

    group: Tokens
    squeeze: str
    expand1x1: str
    expand3x3: str
    bypass: str | None

    @property
    def layers(self) -> tuple[str, ...]:
        """The names, in the order of computation."""
        return (self.squeeze, self.expand1x1, self.expand3x3, *([self.bypass] if self.bypass else []))


@dataclass(frozen=True)
class Layers:
    """All layers by name.

    Attributes:
        conv1: the first convolution.
        fires: the Fire modules, first one first.
        head: the last convolution, or the linear layer.
        linear: whether the head is a linear layer.
        depth: tokens of a name that tell its group.
    """

    conv1: str
    fires: tuple[FireKeys, ...]
    head: str
    linear: bool
    depth: int

    def names(self) -> Iterator[str]:
        """Every layer's name, in the order of computation."""
        yield self.conv1
        for fire in self.fires:
            yield from fire.layers
        yield self.head


def tokens_of(name: str) -> Tokens:
    """The parts of a name: `fire2.expand_1x1` gives `fire2`, `expand`, `1x1`."""
    return tuple(re.split(r"[./_]", name))


def weights_of(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The layers with a matrix or kernels: name without `.weight` -> shape."""
    return {
        key.removesuffix(".weight"): shape
        for key, shape in shapes.items()
        if key.endswith(".weight") and len(shape) in (2, 4) and min(shape) > 0
    }


def find_layers(weights: Mapping[str, Shape], *, ordered: bool) -> Layers:
    """Finds the layers of one whole SqueezeNet.

    Args:
        weights: of `weights_of`, in the file's order.
        ordered: whether the file's order is that of the program, as in what torch saves.

    Raises:
        NoMatch: they are no SqueezeNet's, or are one in two ways.
    """
    count = len(weights)
    if not 5 <= count <= MAX_CONVOLUTIONS:
        raise NoMatch(f"has `{count}` convolutions and linear layers, and a SqueezeNet has 5 at least")
    tokens = {name: tokens_of(name) for name in weights}
    reason = NoMatch("has no groups of three convolutions that make a Fire module (1x1, then 1x1 and 3x3 side by side)")
    for depth in range(1, max(map(len, tokens.values()))):
        groups: dict[Tokens, list[str]] = {}
        for name, parts in tokens.items():
            groups.setdefault(parts[:depth], []).append(name)
        alone = [names[0] for names in groups.values() if len(names) == 1]
        modules = {group: names for group, names in groups.items() if len(names) > 1}
        if not modules or not all(len(names) in (3, 4) for names in modules.values()):
            continue
        if len(alone) != 2:
            reason = NoMatch(
                f"has `{len(alone)}` layers outside its modules, where a first convolution and a head are: {_listed(alone)}"
            )
            continue
        try:
            return _chained(weights, alone, modules, depth, ordered=ordered)
        except NoMatch as err:
            reason = err
    raise reason


def _chained(
    weights: Mapping[str, Shape], alone: Sequence[str], modules: Mapping[Tokens, list[str]], depth: int, *, ordered: bool
) -> Layers:
    """Puts modules in an order in which the channels of one are the inputs of the next."""
    orders = [sorted(modules, key=natural)]
    if ordered and list(modules) != orders[0]:
        orders.append(list(modules))
    found: dict[tuple[str, ...], Layers] = {}
    reason: NoMatch | None = None
    for order in orders:
        for conv1, head in (alone, alone[::-1]):
            try:
                layers = _in_order(weights, conv1, head, {group: modules[group] for group in order}, depth)
            except NoMatch as err:  # noqa: PERF203 - four tries
                reason = reason or err
            else:
                found[tuple(layers.names())] = layers
    if len(found) > 1:
        raise NoMatch(f"fits a SqueezeNet in two ways: the order of its names and that of its file both fit ({_listed(alone)} ...)")
    if not found:
        raise reason or NoMatch("has no order of modules that fits")
    return next(iter(found.values()))


def _in_order(weights: Mapping[str, Shape], conv1: str, head: str, modules: Mapping[Tokens, list[str]], depth: int) -> Layers:
    first, last = weights[conv1], weights[head]
    if len(first) != 4 or first[1] not in IMAGE_CHANNELS:
        raise NoMatch(f"has no first convolution: `{conv1}` has shape `{first}`, where 1 or 3 input channels are needed")
    channels, fires = first[0], []
    for group, names in modules.items():
        fire = _fire(weights, group, names, channels)
        fires.append(fire)
        channels = weights[fire.expand1x1][0] + weights[fire.expand3x3][0]
    if last[1] != channels or (len(last) == 4 and last[2:] != (1, 1)):
        flat = ""
        if len(last) == 2 and last[1] % channels == 0:
            flat = "; it takes a flattened map, and a state dict does not tell of what size"
        raise NoMatch(f"has `{head}` of shape `{last}` behind `{channels}` channels{flat}")
    return Layers(conv1, tuple(fires), head, len(last) == 2, depth)


def _fire(weights: Mapping[str, Shape], group: Tokens, names: Sequence[str], channels: int) -> FireKeys:
    shapes = {name: weights[name] for name in names}
    spatial = [name for name in names if shapes[name][2:] == (3, 3)]
    points = [name for name in names if shapes[name][2:] == (1, 1)]
    shown = ", ".join(f"`{name}` {shapes[name]}" for name in names)
    if len(spatial) != 1 or len(points) != len(names) - 1:
        raise NoMatch(f"has a group of layers that is no Fire module: {shown}")
    expand3x3 = shapes[spatial[0]]
    squeezed = expand3x3[1]
    fits: list[FireKeys] = []
    for squeeze in points:
        for expand in points:
            rest = [name for name in points if name not in (squeeze, expand)]
            wide = (shapes[expand][0] + expand3x3[0], channels)
            if (
                squeeze != expand
                and shapes[squeeze][:2] == (squeezed, channels)
                and shapes[expand][1] == squeezed
                and all(shapes[name][:2] == wide for name in rest)
            ):
                fits.append(FireKeys(group, squeeze, expand, spatial[0], rest[0] if rest else None))
    if len(fits) > 1:  # shapes alone do not tell, but names may
        told = [fire for fire in fits if "squeeze" in fire.squeeze.lower() and "squeeze" not in fire.expand1x1.lower()]
        fits = told or fits
    if not fits:
        raise NoMatch(f"has a group of layers that is no Fire module of `{channels}` input channels: {shown}")
    if len(fits) > 1:
        raise NoMatch(f"has a Fire module that can be read in two ways: {shown}")
    return fits[0]


def natural(group: Tokens) -> list[tuple[int, str]]:
    """A key that sorts `fire10` behind `fire9`."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.findall(r"\d{1,9}|\D+", ".".join(group))]


def pools_between(layers: Layers, norms: Sequence[str]) -> tuple[int, ...] | None:
    """After which Fire modules a pool stands, where conv1 and the modules are in one Sequential: a pool has a number but no tensor.

    Args:
        layers: of the network.
        norms: names of its BatchNorms, which have numbers too.

    Returns:
        Indices into `layers.fires`; None where they are in no Sequential.

    Raises:
        NoMatch: the numbers that are left out are not those of a ReLU and pools.
    """
    groups = [tokens_of(layers.conv1)[: layers.depth], *(fire.group for fire in layers.fires)]
    if len({group[:-1] for group in groups}) != 1 or not all(group[-1].isdecimal() for group in groups):
        return None
    parent, numbers = groups[0][:-1], [int(group[-1]) for group in groups]
    between = {int(parts[-1]) for name in norms if (parts := tokens_of(name))[:-1] == parent and parts[-1].isdecimal()}
    unseen = [
        after - before - 1 - sum(before < number < after for number in between) for before, after in itertools.pairwise(numbers)
    ]
    in_block = len(tokens_of(layers.conv1)) > layers.depth  # conv1 is in a module of its own, and its ReLU may be too
    if unseen[0] != 2 and not (in_block and unseen[0] == 1):
        raise NoMatch(f"has `{unseen[0]}` modules without tensors behind `{layers.conv1}`, where a ReLU and a pool are needed")
    if any(not 0 <= count <= 1 for count in unseen[1:]):
        raise NoMatch(f"has `{max(unseen[1:])}` modules without tensors between two Fire modules; a pool is one")
    return tuple(position for position, count in enumerate(unseen[1:]) if count)


def pools_of_member(layers: Layers, weights: Mapping[str, Shape]) -> tuple[str, tuple[int, ...]] | None:
    """The member of the family that has these filters and kernels, by name, and after which of its Fire modules a pool stands."""
    for member in (FAMILY["squeezenet1_0"], FAMILY["squeezenet1_1"]):
        conv1 = weights[layers.conv1]
        widths = [tuple(weights[name][0] for name in fire.layers[:3]) for fire in layers.fires]
        same = [(fire.squeeze, fire.expand1x1, fire.expand3x3) for fire in member.fires]
        if (conv1[0], conv1[2], conv1[3], widths) == (member.conv1_channels, member.conv1_kernel, member.conv1_kernel, same):
            return member.name, member.pools_after
    return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:6])
