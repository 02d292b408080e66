"""Bounds are written in one set of words, with or without their unit."""

import dataclasses

import pytest

from squeeze_export.errors import BadInput
from squeeze_export.gate.bounds import WORDS, Bounds, bounds_of, in_unit, read_bound


def test_every_word_is_a_field():
    assert [field.name.replace("_", "-") for field in dataclasses.fields(Bounds)] == list(WORDS)


@pytest.mark.parametrize(
    ("word", "value", "number"),
    [
        ("max-top1-drop", "1", 1),
        ("max-top1-drop", 0.5, 0.5),
        ("max-top1-drop", "0.5 pp", 0.5),
        ("min-agreement", "99.5%", 99.5),
        ("min-sqnr", "30dB", 30),
        ("min-sqnr", 30, 30),
        ("max-kl", 1e-05, 0.00001),
        ("max-size", "1.3MB", 1_300_000),
        ("max-size", "1.3 mb", 1_300_000),
        ("max-size", "256KiB", 262_144),
        ("max-size", 1_300_000, 1_300_000),
        ("max-p50", "2.5 ms", 2.5),
        ("max-p50", "900us", 0.9),
        ("min-speedup", "1.5x", 1.5),
        ("max-fallbacks", "0", 0),
        ("max-slowdown", "8%", 8),
    ],
)
def test_values(word, value, number):
    assert read_bound(word, value) == pytest.approx(number)


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        ("max-top1-drop", "1%", "`max-top1-drop` is `1%`: its unit is `pp`, not `%`"),
        ("max-size", "1.3ms", "its unit is `bytes`, not `ms`"),
        ("max-size", "1.3", "bytes are counted"),
        ("max-fallbacks", 1.5, "operators are counted"),
        ("max-top1-drop", "-1", "no number of at least 0"),
        ("max-top1-drop", -1, "no number of at least 0"),
        ("max-top1-drop", "nan", "no number"),
        ("max-top1-drop", float("inf"), "no number"),
        ("max-top1-drop", True, "no number"),
        ("max-top1-drop", [1], "no number"),
        ("max-top1-drop", "101", "more than 100 pp"),
        ("min-agreement", "", "no number"),
        ("max-size", "٣", "no number"),
        ("max-p50", "1e400", "no number"),
    ],
)
def test_refused(word, value, message):
    with pytest.raises(BadInput) as caught:
        read_bound(word, value)
    assert message in caught.value.message
    assert caught.value.hint.startswith("such as ")


@pytest.mark.parametrize(("value", "hint"), [("0.95", "95%, or 0.95%"), (0.5, "50%, or 0.5%"), ("1", "100%, or 1%")])
def test_a_share_is_not_taken_for_percent(value, hint):
    """`min-agreement = 0.95` would pass nearly everything."""
    with pytest.raises(BadInput, match="a share of 1, or percent") as caught:
        read_bound("min-agreement", value)
    assert caught.value.hint == hint
    assert read_bound("min-agreement", "0.95%") == 0.95
    assert read_bound("min-agreement", "0") == 0
    assert read_bound("max-slowdown", "0.5") == 0.5


def test_every_example_is_accepted():
    for word, meant in WORDS.items():
        assert read_bound(word, meant.example) > 0


def test_bounds_of_words():
    assert bounds_of({"max-size": "1MB", "max-kl": 0.1}).given == {"max-kl": 0.1, "max-size": 1_000_000}
    with pytest.raises(BadInput, match="`max-top1` is no bound"):
        bounds_of({"max-top1": 1})


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1_300_000, "bytes", "1,300,000 bytes"), (99.5, "%", "99.50%"), (1, "steps", "1 step"), (0.0123, "nats", "0.012 nats")],
)
def test_figures_with_their_units(value, unit, text):
    assert in_unit(value, unit) == text
