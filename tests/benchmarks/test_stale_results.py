"""A committed result says which integers its figures rest on, and is stale where this code makes others.

The integers themselves are compared, of a small fixed network, and not a hash of the source of `quant/`: a rename or a refactoring
changes that hash and no figure, and hours of benchmarks would follow for nothing. A change of the integers, wherever it comes from
(`quant/`, the float run, image decoding, a library), changes what is compared here.

There are two steps, since sums differ between CPUs in their last bits: this code's integers must be those of
`benchmarks/integers.safetensors` up to rounding, and each result must have been made with that file as it is now. After a change
that is meant, run `python -m benchmarks.integers`, and then the benchmarks that this test names.
"""

from __future__ import annotations

import json

import pytest

from benchmarks.integers import BEST, CASES, FAST, differences, hashes, made, stored
from benchmarks.recording import RESULTS
from squeeze_export.quant import ranges, recipes
from squeeze_export.quant.rounding import nearest

FILES = sorted(RESULTS.glob("*.json"))
STALE: dict[str, str] = {}
"""Results known to be stale, and why they were not made again yet."""


@pytest.mark.parametrize("case", CASES)
def test_this_code_makes_the_integers_that_the_results_rest_on(case):
    if case.endswith("best"):
        pytest.importorskip("torch")
    assert differences(stored()[case], made([case])[case]) == [], "see this file's first lines"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_result_rests_on_these_integers(file):
    told, now = json.loads(file.read_text(encoding="utf-8"))["integers"], hashes(stored())
    stale = [case for case, digest in told.items() if now.get(case) != digest]
    assert bool(stale) == (file.stem in STALE), stale


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (ranges, "HEADROOM", 1.05),
        (recipes, "FIRST_WEIGHT_LIMIT", 127),
        (recipes, "compensated", lambda weight, scale, limit, moment: nearest(weight, scale, limit)),
        (recipes, "corrected_bias", lambda bias, *_: bias.astype("float64")),
    ],
    ids=["headroom", "limit of conv1", "rounding", "bias correction"],
)
def test_a_changed_recipe_is_noticed(module, name, value, monkeypatch):
    """Negative control."""
    monkeypatch.setattr(module, name, value)
    assert differences(stored()[FAST], made([FAST])[FAST]) != []


def test_the_other_recipe_is_noticed():
    assert differences(stored()[FAST], stored()[BEST]) != []
