"""The registry of recipes: who makes the integers, and what is refused before any work is done."""

from __future__ import annotations

import sys

import pytest

from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.graph.quantized import INT8, INT16X8
from squeeze_export.peers import peer_of
from squeeze_export.pipeline.recipes import RECIPES, check_recipe, recipe_names
from squeeze_export.quant.recipes import QUANTIZERS
from squeeze_export.registry import PEERS


def test_whose_they_are():
    assert recipe_names("ours") == list(QUANTIZERS) == ["fast", "best"]
    assert recipe_names("trained") == ["qat"]
    assert recipe_names("ours", "trained") == ["fast", "best", "qat"]
    for name, recipe in RECIPES.items():
        assert name == recipe.name
        assert recipe.calibration in {"vendor": [""]}.get(recipe.maker, QUANTIZERS)


@pytest.mark.parametrize("target", PEERS)
def test_a_targets_vendor_has_those_of_its_peer(target):
    assert recipe_names("vendor", targets=(target,)) == list(peer_of(target).METHODS)
    assert recipe_names(targets=(target,)) == [*recipe_names("ours", "trained"), *peer_of(target).METHODS]
    assert {name for name in recipe_names("vendor", targets=(target,)) if RECIPES[name].labels} == set(peer_of(target).LABELLED)


def test_a_target_without_a_vendor_has_ours():
    assert recipe_names(targets=("caffe",)) == recipe_names("ours", "trained")


def test_an_unknown_one_is_refused():
    with pytest.raises(BadInput, match="no recipe is called `finest`"):
        check_recipe("finest", INT8)
    with pytest.raises(BadInput, match="no recipe is called `vendor`") as caught:
        check_recipe("vendor", INT8, "ours", "trained")
    assert caught.value.hint == "one of: fast, best, qat"


def test_without_torch_there_is_no_best(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("best", "qat"):
        with pytest.raises(Unavailable, match="torch"):
            check_recipe(name, INT8)
    check_recipe("best", INT16X8)  # which is not distilled
    check_recipe("fast", INT8)
