"""The page's colours: WCAG 2.2 AA, computed from the style sheet. Text 4.5 to 1, drawings 3 to 1."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import squeeze_export

CSS = (Path(squeeze_export.__file__).parent / "report" / "templates" / "page.css").read_text(encoding="utf-8")
MODES = ("light", "dark", "print")


def colours(mode):
    """Variable -> (red, green, blue) of a mode."""
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    assert len(blocks) == len(MODES)
    found = dict(re.findall(r"--([\w-]+): #([0-9a-f]{6})(?![0-9a-f])", blocks[MODES.index(mode)]))
    return {name: tuple(int(value[index : index + 2], 16) for index in (0, 2, 4)) for name, value in found.items()}


def luminance(colour):
    """WCAG 2.2, relative luminance."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    """WCAG 2.2, contrast ratio."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_formula_by_hand():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)  # #777 is just too pale


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ink", ["ink", "soft", "bad", "good", "warn"])
def test_text_on_the_page(mode, ink):
    found = colours(mode)
    assert contrast(found[ink], found["page"]) >= 4.5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ink", ["ink", "warn"])
def test_text_on_a_warning(mode, ink):
    found = colours(mode)
    assert contrast(found[ink], found["warn-panel"]) >= 4.5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("drawn", ["mark", "soft", "warn"])
def test_drawings_on_the_page(mode, drawn):
    found = colours(mode)
    assert contrast(found[drawn], found["page"]) >= 3


def test_no_colour_stands_outside_the_modes():
    rest = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl", rest) == []
