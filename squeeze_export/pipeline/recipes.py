"""The recipes: every way to quantize that `--recipe` can name, who makes the integers, and what it needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from squeeze_export.core import require
from squeeze_export.errors import BadInput, did_you_mean
from squeeze_export.graph.quantized import Scheme
from squeeze_export.peers import peer_of
from squeeze_export.quant.recipes import BEST, FAST
from squeeze_export.registry import PEERS

Maker: TypeAlias = Literal["ours", "trained", "vendor"]
"""Who makes the integers: we, from calibration images; training on labelled images after that; the tool of each target's vendor."""


@dataclass(frozen=True)
class Recipe:
    """A way to quantize, and what it needs.

    Attributes:
        name: for `--recipe`, in tables, provenance and reports.
        maker: who makes the integers.
        calibration: the key of `quant.recipes.QUANTIZERS` that makes them, or what training starts from; empty for a vendor.
        torch: whether it needs torch for 8-bit activations.
        labels: whether a vendor's tool looks at labelled images to decide what to quantize.
        targets: whose vendors have it; empty if every target does.
    """

    name: str
    maker: Maker
    calibration: str = ""
    torch: bool = False
    labels: bool = False
    targets: tuple[str, ...] = ()


def _vendors() -> dict[str, Recipe]:
    found: dict[str, Recipe] = {}
    for target in PEERS:
        peer = peer_of(target)
        for name in peer.METHODS:
            targets = (*(found[name].targets if name in found else ()), target)
            found[name] = Recipe(name, "vendor", labels=name in peer.LABELLED, targets=targets)
    return found


QAT = "qat"
RECIPES: Mapping[str, Recipe] = {
    FAST: Recipe(FAST, "ours", FAST),
    BEST: Recipe(BEST, "ours", BEST, torch=True),
    QAT: Recipe(QAT, "trained", BEST, torch=True),
    **_vendors(),
}


def recipe_names(*makers: Maker, targets: Collection[str] = ()) -> list[str]:
    """The names for `--recipe`, in the registry's order.

    Args:
        makers: only theirs; none for all.
        targets: only those for at least one of these; none for all.
    """
    return [
        name
        for name, recipe in RECIPES.items()
        if (not makers or recipe.maker in makers)
        and (not targets or not recipe.targets or not set(targets).isdisjoint(recipe.targets))
    ]


def check_recipe(name: str, scheme: Scheme, *makers: Maker) -> Recipe:
    """Looks a recipe up, and refuses one that cannot run here.

    Args:
        name: of the recipe.
        scheme: how the integers are to be carried.
        makers: only their recipes are accepted; none for all.

    Raises:
        BadInput: no such recipe.
        Unavailable: it needs torch, which is not installed.
    """
    if name not in recipe_names(*makers):
        raise BadInput(f"no recipe is called `{name}`", hint=did_you_mean(name, recipe_names(*makers)))
    recipe = RECIPES[name]
    if recipe.torch and scheme.activation_bits == 8:
        require("torch", "torch")
    return recipe
