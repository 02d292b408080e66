"""A pen that draws the coverage masks of a symbol with Pillow alone."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

TEMPLATE_PX = 128
_DRAWN_PX = 4 * TEMPLATE_PX  # averaged down at the end: smooth edges

Point = tuple[float, float]


class Pen:
    """Three L images of `_DRAWN_PX` to draw on, in units where the symbol fills -1 to 1, x to the right and y down."""

    def __init__(self) -> None:
        self.layers = [Image.new("L", (_DRAWN_PX, _DRAWN_PX)) for _ in range(3)]
        self._draws = [ImageDraw.Draw(layer) for layer in self.layers]

    def polygon(self, layer: int, points: list[Point], fill: int = 255) -> None:
        """Fills a polygon."""
        self._draws[layer].polygon([_px(p) for p in points], fill=fill)

    def disc(self, layer: int, x: float, y: float, radius: float, fill: int = 255) -> None:
        """Fills a circle."""
        self._draws[layer].ellipse([_px((x - radius, y - radius)), _px((x + radius, y + radius))], fill=fill)

    def sector(self, layer: int, radius: float, start_deg: float, end_deg: float, *, x: float = 0.0, y: float = 0.0) -> None:
        """Fills a slice of a circle; degrees run clockwise from the right."""
        corners = [_px((x - radius, y - radius)), _px((x + radius, y + radius))]
        self._draws[layer].pieslice(corners, start_deg, end_deg, fill=255)

    def arc(self, layer: int, box: tuple[float, float, float], degrees: tuple[float, float], width: float) -> None:
        """Draws part of a circle's line; `box` is x, y and the outer radius."""
        x, y, radius = box
        corners = [_px((x - radius, y - radius)), _px((x + radius, y + radius))]
        self._draws[layer].arc(corners, degrees[0], degrees[1], fill=255, width=round(width * _DRAWN_PX / 2))

    def box(self, layer: int, x0: float, y0: float, x1: float, y1: float, *, radius: float = 0.0, fill: int = 255) -> None:
        """Fills a rectangle, with rounded corners where `radius` is above 0."""
        corners = [_px((x0, y0)), _px((x1, y1))]
        self._draws[layer].rounded_rectangle(corners, radius * _DRAWN_PX / 2, fill=fill)

    def line(self, layer: int, points: list[Point], width: float) -> None:
        """Draws a line with round ends."""
        self._draws[layer].line([_px(p) for p in points], fill=255, width=round(width * _DRAWN_PX / 2), joint="curve")
        for x, y in (points[0], points[-1]):
            self.disc(layer, x, y, width / 2)

    def text(self, layer: int, text: str, height: float, y: float = 0.0) -> None:
        """Writes text with its centre on (0, y) in Pillow's own font, made bold; `height` is the font size."""
        size = height * _DRAWN_PX / 2
        font = ImageFont.load_default(size)
        self._draws[layer].text(_px((0.0, y)), text, fill=255, font=font, anchor="mm", stroke_width=round(size * 0.035))

    def masks(self) -> Image.Image:
        """The three layers as the channels of an RGB image of `TEMPLATE_PX` (0 uncovered, 255 covered)."""
        return Image.merge("RGB", self.layers).resize((TEMPLATE_PX, TEMPLATE_PX), Image.Resampling.BOX)


def _px(point: Point) -> tuple[float, float]:
    return (point[0] + 1) * _DRAWN_PX / 2, (point[1] + 1) * _DRAWN_PX / 2
