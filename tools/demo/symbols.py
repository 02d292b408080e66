"""The 24 symbols of the demo data set, as coverage masks. No font file and no picture is read: Pillow draws them all.

A symbol is three stacked layers (silhouette, second ink, third ink), so that a scene can be warped once and coloured later.
Each symbol has a few variants, as the real ones do: a plate that is round or square, other digits' sizes, another code's cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.demo.pen import Pen, Point

VARIANT_COUNT = 8

Colour = tuple[int, int, int]

RED, BLUE, YELLOW, WHITE, BLACK = (196, 24, 32), (16, 74, 168), (246, 196, 16), (244, 244, 240), (22, 22, 24)
GREEN, ORANGE, VIOLET, CYAN = (24, 132, 60), (232, 112, 20), (116, 44, 150), (20, 150, 180)


@dataclass(frozen=True)
class Symbol:
    """How one class is drawn.

    Attributes:
        paint: draws variant `v` onto a `Pen`.
        inks: the palettes, one of which colours the three layers; empty where any well contrasting pair will do.
    """

    paint: Callable[[Pen, int], None]
    inks: tuple[tuple[Colour, Colour, Colour], ...] = ()


def _regular(corners: int, radius: float, turn_deg: float = 0.0) -> list[Point]:
    angles = [2 * pi * i / corners + turn_deg * pi / 180 for i in range(corners)]
    return [(radius * cos(a), radius * sin(a)) for a in angles]


def _plate(pen: Pen, variant: int) -> None:
    """What a pictogram stands on: a disc, a rounded square or a square."""
    if variant % 3 == 0:
        pen.disc(0, 0, 0, 0.98)
    else:
        pen.box(0, -0.9, -0.9, 0.9, 0.9, radius=0.25 if variant % 3 == 1 else 0.02)


def _warning_plate(pen: Pen) -> None:
    """Black triangle, yellow inside."""
    pen.polygon(0, [(0, -0.98), (0.99, 0.78), (-0.99, 0.78)])
    pen.polygon(1, [(0, -0.72), (0.77, 0.65), (-0.77, 0.65)])


def _stop(pen: Pen, variant: int) -> None:
    pen.polygon(0, _regular(8, 0.99, 22.5))
    pen.polygon(1, _regular(8, 0.90, 22.5))
    pen.text(2, "STOP", (0.58, 0.62, 0.66, 0.70)[variant % 4])


def _yield(pen: Pen, variant: int) -> None:
    rim = (0.0, 0.06)[variant % 2]
    pen.polygon(0, [(-0.99, -0.78), (0.99, -0.78), (0, 0.98)])
    pen.polygon(1, [(-0.62 + rim, -0.57), (0.62 - rim, -0.57), (0, 0.54 - rim)])


def _no_entry(pen: Pen, variant: int) -> None:
    half = (0.15, 0.19)[variant % 2]
    pen.disc(0, 0, 0, 0.98)
    pen.disc(1, 0, 0, 0.92)
    pen.box(2, -0.68, -half, 0.68, half, radius=0.02)


def _speed(digits: str) -> Callable[[Pen, int], None]:
    def paint(pen: Pen, variant: int) -> None:
        pen.disc(0, 0, 0, 0.98)
        pen.disc(1, 0, 0, (0.74, 0.80)[variant % 2])
        pen.text(2, digits, (0.92, 1.0, 1.08, 1.12)[variant % 4])

    return paint


def _turn(side: int) -> Callable[[Pen, int], None]:
    """A blue disc with an arrow that comes from below and bends; `side` is -1 for left."""

    def paint(pen: Pen, variant: int) -> None:
        width = (0.20, 0.24)[variant % 2]
        pen.disc(0, 0, 0, 0.98)
        pen.disc(1, 0, 0, 0.92)
        pen.line(2, [(-0.34 * side, 0.58), (-0.34 * side, -0.12), (0.22 * side, -0.12)], width)
        pen.polygon(2, [(0.66 * side, -0.12), (0.16 * side, -0.48), (0.16 * side, 0.24)])

    return paint


def _pedestrian(pen: Pen, variant: int) -> None:
    pen.box(0, -0.94, -0.94, 0.94, 0.94, radius=0.1)
    pen.polygon(1, [(0, -0.84), (0.84, 0.78), (-0.84, 0.78)])
    lean = (1, -1)[variant % 2]
    pen.disc(2, 0.02 * lean, -0.42, 0.10)
    pen.line(2, [(0, -0.24), (-0.03 * lean, 0.14)], 0.17)
    pen.line(2, [(-0.03 * lean, 0.14), (0.20 * lean, 0.62)], 0.10)
    pen.line(2, [(-0.03 * lean, 0.14), (-0.26 * lean, 0.60)], 0.10)
    pen.line(2, [(0, -0.22), (0.22 * lean, 0.08)], 0.08)
    pen.line(2, [(0, -0.22), (-0.22 * lean, 0.06)], 0.08)


def _warning(pen: Pen, variant: int) -> None:
    _warning_plate(pen)
    width = (0.09, 0.11)[variant % 2]
    pen.polygon(2, [(-width, -0.34), (width, -0.34), (width * 0.6, 0.26), (-width * 0.6, 0.26)])
    pen.disc(2, 0, 0.44, width)


def _high_voltage(pen: Pen, variant: int) -> None:
    _warning_plate(pen)
    bolt = [(0.10, -0.44), (-0.22, 0.14), (0.0, 0.10), (-0.10, 0.42), (-0.20, 0.40), (-0.08, 0.60)]
    bolt += [(0.12, 0.46), (0.02, 0.44), (0.24, -0.02), (0.02, 0.0)]
    pen.polygon(2, [(x * (1.0, 1.2)[variant % 2], y) for x, y in bolt])


def _radiation(pen: Pen, variant: int) -> None:
    """The trefoil, on the triangle of ISO 7010 or on a plain plate."""
    scale, y = (0.46, 0.22) if variant % 2 else (0.82, 0.0)
    if variant % 2:
        _warning_plate(pen)
    else:
        pen.box(0, -0.94, -0.94, 0.94, 0.94, radius=0.06)
        pen.box(1, -0.88, -0.88, 0.88, 0.88, radius=0.04)
    for start_deg in (0, 120, 240):
        pen.sector(2, scale, start_deg, start_deg + 60, y=y)
    pen.disc(2, 0, y, scale * 0.30, fill=0)
    pen.disc(2, 0, y, scale * 0.20)


def _recycle(pen: Pen, variant: int) -> None:
    """Three arrows that chase each other around a triangle."""
    _plate(pen, variant)
    for i in range(3):
        c, s = cos(2 * pi * i / 3), sin(2 * pi * i / 3)
        pen.line(1, [(x * c - y * s, x * s + y * c) for x, y in ((-0.48, 0.34), (0.20, 0.34))], 0.20)
        pen.polygon(1, [(x * c - y * s, x * s + y * c) for x, y in ((0.50, 0.34), (0.14, 0.60), (0.14, 0.08))])


def _wifi(pen: Pen, variant: int) -> None:
    _plate(pen, variant)
    for radius in (0.95, 0.66, 0.37):
        pen.arc(1, (0, 0.46, radius), (225, 315), 0.16)
    pen.disc(1, 0, 0.42, 0.12)


def _bluetooth(pen: Pen, variant: int) -> None:
    _plate(pen, variant)
    rune = [(-0.32, -0.30), (0.32, 0.30), (0.0, 0.62), (0.0, -0.62), (0.32, -0.30), (-0.32, 0.30)]
    pen.line(1, rune, (0.11, 0.14)[variant % 2])


def _battery(pen: Pen, variant: int) -> None:
    """An outline with one to four bars in it."""
    _plate(pen, variant)
    pen.box(1, -0.66, -0.34, 0.54, 0.34, radius=0.08)
    pen.box(1, 0.54, -0.14, 0.66, 0.14)
    pen.box(1, -0.57, -0.25, 0.45, 0.25, fill=0)
    for i in range(variant % 4 + 1):
        pen.box(1, -0.52 + i * 0.245, -0.20, -0.33 + i * 0.245, 0.20)


def _power(pen: Pen, variant: int) -> None:
    _plate(pen, variant)
    pen.arc(1, (0, 0.04, 0.58), (-55, 235), (0.14, 0.18)[variant % 2])
    pen.line(1, [(0, -0.62), (0, -0.02)], (0.14, 0.18)[variant % 2])


def _play(pen: Pen, variant: int) -> None:
    _plate(pen, variant)
    pen.polygon(1, [(-0.34, -0.52), (-0.34, 0.52), (0.58, 0)])


def _heart(pen: Pen, variant: int) -> None:
    layer, scale = (0, 0.95) if variant % 4 == 3 else (1, 0.64)
    if layer:
        _plate(pen, variant)
    t = np.linspace(0, 2 * pi, 90)
    x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    pen.polygon(layer, [(float(a) / 16.5 * scale, -(float(b) + 2.5) / 16.5 * scale) for a, b in zip(x, y, strict=True)])


def _star(pen: Pen, variant: int) -> None:
    layer, scale = (0, 1.0) if variant % 4 == 3 else (1, 0.76)
    if layer:
        _plate(pen, variant)
    outer, inner = _regular(5, scale, -90), _regular(5, scale * 0.42, -54)
    pen.polygon(layer, [p for pair in zip(outer, inner, strict=True) for p in pair])


def _cells(pen: Pen, cells: NDArray[np.bool_], half: float) -> None:
    """A square of cells (rows, columns) bool on the second layer, from -half to half."""
    count = len(cells)
    step = 2 * half / count
    for row, column in np.argwhere(cells):
        x, y = -half + column * step, -half + row * step
        pen.box(1, x, y, x + step, y + step)


def _qr_code(pen: Pen, variant: int) -> None:
    """Version-1 looks: 21 x 21 cells with three finders; the payload differs by variant and says nothing."""
    pen.box(0, -0.96, -0.96, 0.96, 0.96)
    cells = np.random.default_rng([21, variant]).random((21, 21)) < 0.5
    finder = np.zeros((8, 8), bool)
    finder[:7, :7] = True
    finder[1:6, 1:6] = False
    finder[2:5, 2:5] = True
    cells[:8, :8], cells[:8, -8:], cells[-8:, :8] = finder, finder[:, ::-1], finder[::-1]
    _cells(pen, cells, 0.84)


def _barcode(pen: Pen, variant: int) -> None:
    pen.box(0, -0.98, -0.72, 0.98, 0.72)
    bars = np.random.default_rng([13, variant]).random(45) < 0.5
    bars[[0, 2, 22, -3, -1]] = True
    for i in np.flatnonzero(bars):
        x = -0.86 + i * 1.72 / 45
        pen.box(1, x, -0.60, x + 1.72 / 45, 0.42 if variant % 2 else 0.60)
    if variant % 2:
        pen.text(1, "4 012345 6789", 0.2, y=0.57)


def _tag(rows: tuple[str, ...]) -> Callable[[Pen, int], None]:
    """A fiducial marker: a black frame around 4 x 4 cells, `#` black. One fixed code; variants differ in the white rim."""
    code = np.array([[cell == "#" for cell in row] for row in rows])

    def paint(pen: Pen, variant: int) -> None:
        rim = (0.96, 0.90)[variant % 2]
        cells = np.ones((6, 6), bool)
        cells[1:5, 1:5] = code
        pen.box(0, -rim, -rim, rim, rim)
        _cells(pen, cells, 0.78)

    return paint


_ROAD_RED = ((WHITE, RED, WHITE),)
_SPEED_INKS = ((RED, WHITE, BLACK),)
_ROAD_BLUE = ((WHITE, BLUE, WHITE),)
_WARNING_INKS = ((BLACK, YELLOW, BLACK),)
_CODE_INKS = ((WHITE, BLACK, BLACK),)

SYMBOLS: Mapping[str, Symbol] = {
    "barcode": Symbol(_barcode, _CODE_INKS),
    "battery": Symbol(_battery),
    "bluetooth": Symbol(_bluetooth),
    "heart": Symbol(_heart),
    "high_voltage": Symbol(_high_voltage, _WARNING_INKS),
    "no_entry": Symbol(_no_entry, _ROAD_RED),
    "pedestrian": Symbol(_pedestrian, ((BLUE, WHITE, BLACK),)),
    "play": Symbol(_play),
    "power": Symbol(_power),
    "qr_code": Symbol(_qr_code, _CODE_INKS),
    "radiation": Symbol(_radiation, (*_WARNING_INKS, (BLACK, YELLOW, (120, 20, 96)))),
    "recycle": Symbol(_recycle),
    "speed_30": Symbol(_speed("30"), _SPEED_INKS),
    "speed_50": Symbol(_speed("50"), _SPEED_INKS),
    "speed_80": Symbol(_speed("80"), _SPEED_INKS),
    "star": Symbol(_star),
    "stop": Symbol(_stop, _ROAD_RED),
    "tag_07": Symbol(_tag(("#..#", ".##.", "...#", "##.#")), _CODE_INKS),
    "tag_23": Symbol(_tag((".#.#", "##..", ".#..", "#.#.")), _CODE_INKS),
    "turn_left": Symbol(_turn(-1), _ROAD_BLUE),
    "turn_right": Symbol(_turn(1), _ROAD_BLUE),
    "warning": Symbol(_warning, _WARNING_INKS),
    "wifi": Symbol(_wifi),
    "yield": Symbol(_yield, ((RED, WHITE, WHITE),)),
}


@lru_cache(maxsize=2 * len(SYMBOLS) * VARIANT_COUNT)
def template(name: str, variant: int, halvings: int = 0) -> Image.Image:
    """The coverage masks of a symbol.

    Args:
        name: a key of `SYMBOLS`.
        variant: 0 to `VARIANT_COUNT` - 1.
        halvings: how often the side is halved, 0 or more; for a small picture, which would otherwise alias.

    Returns:
        an RGB image of `TEMPLATE_PX / 2**halvings`, whose channels are the three layers (0 uncovered, 255 covered).
        Shared: do not draw on it.
    """
    if halvings:
        return template(name, variant, halvings - 1).reduce(2)
    pen = Pen()
    SYMBOLS[name].paint(pen, variant)
    return pen.masks()
