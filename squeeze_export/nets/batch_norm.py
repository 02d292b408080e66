"""BatchNorm, folded into the convolution before it.

w' = w * gamma / sqrt(var + eps), and b' = (b - mean) * gamma / sqrt(var + eps) + beta: exact where nothing stands between the two.
Ioffe and Szegedy, "Batch Normalization", arXiv:1502.03167, algorithm 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from squeeze_export.nets.layers import Layers, NoMatch, Tokens, natural, tokens_of
from squeeze_export.nets.stored import Shape

EPS = 1e-5
"""torch's default; a state dict does not hold it."""
STATISTICS = ("running_mean", "running_var")
_WORDS = re.compile(r"batch_?norm(2d)?|norm(2d)?|bn|conv(2d)?")

Array = NDArray[np.float32]


def norms_of(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The BatchNorms: name without `.running_mean` -> channels.

    Raises:
        NoMatch: one lacks its variance, or its tensors differ in size.
    """
    found: dict[str, int] = {}
    for key, shape in shapes.items():
        name = key.removesuffix(".running_mean")
        if name == key:
            continue
        own = [shapes[f"{name}.{part}"] for part in ("weight", "bias") if f"{name}.{part}" in shapes]
        if len(shape) != 1 or any(other != shape for other in (shapes.get(f"{name}.running_var"), *own)):
            raise NoMatch(f"has a BatchNorm `{name}` that cannot be folded: its tensors are missing or differ in size")
        found[name] = shape[0]
    return found


def owners_of(
    norms: Mapping[str, int], layers: Layers, weights: Mapping[str, Shape], *, ordered: bool
) -> tuple[dict[str, str], bool]:
    """Which convolution each BatchNorm stands behind.

    Names tell it (`fire2.squeeze.0` and `.1`, `conv1` and `bn1`, `squeeze` and `squeeze_bn`), or the channel count; else, within
    one Fire module with as many BatchNorms as convolutions, their order: in the file, or by number (`bn1`, `bn2`, `bn3`).

    Args:
        norms: of `norms_of`, in the file's order.
        layers: of the network.
        weights: layer name -> shape, in the file's order.
        ordered: whether the file's order is that of the program.

    Returns:
        Layer name -> name of its BatchNorm, and whether an order had to tell.

    Raises:
        NoMatch: a BatchNorm fits no convolution, or it is not sure which.
    """
    found: dict[str, str] = {}
    by_order = False
    groups: dict[Tokens, tuple[str, ...]] = {fire.group: fire.layers for fire in layers.fires}
    outside = (layers.conv1, *(() if layers.linear else (layers.head,)))
    members: dict[Tokens, list[str]] = {}
    for name in norms:
        group = tokens_of(name)[: layers.depth]
        members.setdefault(group if group in groups and len(tokens_of(name)) > layers.depth else (), []).append(name)
    for group, names in members.items():
        candidates = groups.get(group, outside)
        left = []
        for name in sorted(names, key=lambda name: natural(tokens_of(name))):
            told = [layer for layer in candidates if _follows(name, layer) and layer not in found]
            told = told or [layer for layer in candidates if _paired(name, layer, len(group)) and layer not in found]
            if len(told) == 1:
                found[told[0]] = name
            else:
                left.append(name)
        free = [layer for layer in candidates if layer not in found]
        if not left:
            continue
        fits = [[layer for layer in free if weights[layer][0] == norms[name]] for name in left]
        if all(len(layers_that_fit) == 1 for layers_that_fit in fits) and len({fit[0] for fit in fits}) == len(left):
            found.update({fit[0]: name for fit, name in zip(fits, left, strict=True)})
        elif group and len(left) == len(free) and (ordered or len({re.sub(r"\d+", "", name) for name in left}) == 1):
            by_order = True
            in_file = sorted(free, key=list(weights).index) if ordered else free
            found.update(zip(in_file, sorted(left, key=list(norms).index) if ordered else left, strict=True))
        else:
            raise NoMatch(_unsure(left, candidates, norms, weights))
    wrong = [name for layer, name in found.items() if weights[layer][0] != norms[name]]
    if wrong:
        raise NoMatch(_unsure(wrong, list(weights), norms, weights))
    return found, by_order


def folded(weight: Array, bias: Array, norm: Mapping[str, Array]) -> tuple[Array, Array]:
    """Weights and bias of the convolution and its BatchNorm in one, computed in float64.

    Args:
        weight: (O, I, H, W).
        bias: (O,).
        norm: `running_mean` and `running_var`, and `weight` and `bias` where it has them; each (O,).

    Returns:
        Both, in float32.
    """
    exact = {part: values.astype(np.float64) for part, values in norm.items()}
    scale = exact.get("weight", np.ones(len(bias))) / np.sqrt(exact["running_var"] + EPS)
    shifted = (bias.astype(np.float64) - exact["running_mean"]) * scale + exact.get("bias", np.zeros(len(bias)))
    with np.errstate(over="ignore", invalid="ignore"):  # the graph refuses what is not finite
        return (weight.astype(np.float64) * scale[:, None, None, None]).astype(np.float32), shifted.astype(np.float32)


def _follows(norm: str, layer: str) -> bool:
    """Whether a BatchNorm stands right behind a layer in one Sequential."""
    *parent, number = tokens_of(norm)
    *other, before = tokens_of(layer)
    return parent == other and number.isdecimal() and before.isdecimal() and int(number) == int(before) + 1


def _paired(norm: str, layer: str, depth: int) -> bool:
    """Whether the names are the same without the words for what they are: `squeeze_bn` and `squeeze_conv`."""
    return _bare(norm, depth) == _bare(layer, depth)


def _bare(name: str, depth: int) -> tuple[str, ...]:
    return tuple(word for part in tokens_of(name.lower())[depth:] if (word := _WORDS.sub("", part)))


def _unsure(names: Sequence[str], layers: Sequence[str], norms: Mapping[str, int], weights: Mapping[str, Shape]) -> str:
    shown = ", ".join(f"`{name}` ({norms[name]} channels)" for name in names[:4])
    others = ", ".join(f"`{layer}` ({weights[layer][0]})" for layer in layers[:4])
    return f"has BatchNorm that cannot be folded, because it is not sure which convolution it stands behind: {shown}; of {others}"
