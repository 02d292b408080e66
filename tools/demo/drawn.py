"""The demo data set, drawn from a seed: 24 signs, symbols and tags as a small camera might meet them.

Each image has its own generator, `default_rng([seed, index])`, so neither the order nor the count changes a pixel. The same
seed gives the same bytes with the same Pillow and numpy; other versions may differ in a rounding.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from squeeze_export.errors import BadInput
from tools.demo.pen import TEMPLATE_PX
from tools.demo.symbols import SYMBOLS, VARIANT_COUNT, Colour, template

CLASS_NAMES: tuple[str, ...] = tuple(sorted(SYMBOLS))
"""In index order, which is also alphabetical: a folder tree of these names reads back to the same indices."""

MIN_SIZE_PX = 32
_VIEW_DISTANCE = 3.2  # camera to symbol, in half sides of the symbol: near enough for a visible perspective
_MIN_CONTRAST = 90.0  # luma steps between the two inks of a pictogram, where the class has no colours of its own

Rng = np.random.Generator
Pixels = NDArray[np.float32]


def draw(class_index: int, rng: Rng, size_px: int = 96, *, hardness: float = 1.0) -> NDArray[np.uint8]:
    """Draws one picture.

    Args:
        class_index: into `CLASS_NAMES`.
        rng: consumed; the picture depends on nothing else.
        size_px: side of the picture, at least `MIN_SIZE_PX`.
        hardness: scales tilt, occlusion, blur and noise; 0 is a clean frontal view, 1 is what the demo network is trained on.

    Returns:
        (size_px, size_px, 3) uint8, RGB.

    Raises:
        BadInput: the class, the size or the hardness is out of range.
    """
    if not 0 <= class_index < len(CLASS_NAMES):
        raise BadInput(f"class `{class_index}` is not one of the {len(CLASS_NAMES)} drawn classes")
    if size_px < MIN_SIZE_PX or hardness < 0:
        raise BadInput(f"cannot draw `{size_px}` px at hardness `{hardness}`", hint=f"at least {MIN_SIZE_PX} px, 0 or more")
    name = CLASS_NAMES[class_index]
    scene = _background(rng, size_px)
    _clutter(scene, rng, count=int(rng.integers(0, 5)))
    masks = _warped(name, rng, size_px, hardness)
    picture = _painted(np.asarray(scene, np.float32), masks, _inks(name, rng))
    picture = _occluded(picture, rng, hardness)
    picture = _lit(picture, rng, hardness)
    return _captured(picture, rng, hardness)


def draw_batch(
    seed: int, count: int, size_px: int = 96, *, start: int = 0, hardness: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draws images `start` to `start + count - 1` of the data set `seed`; the classes take turns.

    Args:
        seed: 0 or more. Sets with different seeds share no image.
        count: images, 0 or more.
        size_px: side.
        start: index of the first.
        hardness: as in `draw`.

    Returns:
        images (count, size_px, size_px, 3) uint8 RGB, and labels (count,) int64.

    Raises:
        BadInput: a size or hardness out of range.
    """
    return draw_indices(seed, range(start, start + count), size_px, hardness=hardness)


def draw_indices(
    seed: int, indices: Iterable[int], size_px: int = 96, *, hardness: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """`draw_batch` for any indices; image i has class i modulo the class count."""
    chosen = np.fromiter(indices, np.int64)
    labels = chosen % len(CLASS_NAMES)
    images = np.empty((len(chosen), size_px, size_px, 3), np.uint8)
    for row, (index, label) in enumerate(zip(chosen, labels, strict=True)):
        images[row] = draw(int(label), np.random.default_rng([seed, int(index)]), size_px, hardness=hardness)
    return images, labels


def _colour(rng: Rng) -> Colour:
    red, green, blue = rng.integers(0, 256, 3)
    return int(red), int(green), int(blue)


def _luma(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _background(rng: Rng, size_px: int) -> Image.Image:
    """Soft blotches, hard tiles or stripes, of a random coarseness."""
    kind = rng.random()
    cells = int(rng.integers(1, 5)) if kind < 0.5 else int(rng.integers(3, 16))
    shape = (cells, cells, 3) if kind < 0.8 else (1, cells, 3) if kind < 0.9 else (cells, 1, 3)
    spread = rng.uniform(8, 70)
    grid = np.clip(rng.uniform(20, 235, 3) + rng.normal(0, spread, shape), 0, 255).astype(np.uint8)
    method = Image.Resampling.BICUBIC if kind < 0.6 else Image.Resampling.NEAREST
    return Image.fromarray(grid).resize((size_px, size_px), method)


def _clutter(scene: Image.Image, rng: Rng, count: int) -> None:
    """Draws discs, boxes, triangles and lines that mean nothing: a plate or a sign's outline must not be enough to decide."""
    pen = ImageDraw.Draw(scene)
    side = scene.width
    for _ in range(count):
        x, y = rng.uniform(0, side, 2)
        reach, width = rng.uniform(0.08, 0.35) * side, int(rng.integers(1, 5))
        box, colour = (x - reach, y - reach, x + reach, y + reach), _colour(rng)
        fill = colour if rng.random() < 0.6 else None
        kind = rng.integers(4)
        if kind == 0:
            pen.ellipse(box, fill=fill, outline=colour, width=width)
        elif kind == 1:
            pen.rectangle(box, fill=fill, outline=colour, width=width)
        elif kind == 2:
            pen.regular_polygon((x, y, reach), 3, float(rng.uniform(0, 360)), fill=fill, outline=colour)
        else:
            pen.line((x, y, *rng.uniform(0, side, 2)), fill=colour, width=width)


def _warped(name: str, rng: Rng, size_px: int, hardness: float) -> Pixels:
    """The symbol's three masks as the camera sees them: (size, size, 3) float32, 0 to 1."""
    half_px = size_px * float(np.exp(rng.uniform(np.log(0.24), np.log(0.47))))
    roll, pitch, yaw = rng.normal(0, (14, 28, 28)) * hardness * pi / 180
    roll, pitch, yaw = np.clip((roll, pitch, yaw), -pi / 4, pi / 4)
    room = max(size_px / 2 - 0.8 * half_px, 0.0)
    centre = size_px / 2 + rng.uniform(-room, room, 2)
    about_z = np.array([[cos(roll), -sin(roll), 0], [sin(roll), cos(roll), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cos(pitch), -sin(pitch)], [0, sin(pitch), cos(pitch)]])
    about_y = np.array([[cos(yaw), 0, sin(yaw)], [0, 1, 0], [-sin(yaw), 0, cos(yaw)]])
    turn = about_y @ about_x @ about_z
    # The plane's homography, unit square of the symbol to picture: columns x, y and origin, then the pinhole projection.
    plane = np.column_stack([turn[:, 0], turn[:, 1], (0, 0, _VIEW_DISTANCE)])
    focal = half_px * _VIEW_DISTANCE
    camera = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    halvings = 1 if half_px < TEMPLATE_PX / 4 else 0
    half_template = TEMPLATE_PX / 2 / 2**halvings
    to_template = np.array([[half_template, 0, half_template], [0, half_template, half_template], [0, 0, 1]])
    inverse = to_template @ np.linalg.inv(camera @ plane)
    coefficients = tuple(float(v) for v in (inverse / inverse[2, 2]).ravel()[:8])
    masks = template(name, int(rng.integers(VARIANT_COUNT)), halvings)
    warped = masks.transform((size_px, size_px), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(warped, np.float32) / np.float32(255)


def _inks(name: str, rng: Rng) -> Pixels:
    """Colours of the three layers, (3, 3) float32: the class's own, faded, or any pair with enough contrast."""
    palettes = SYMBOLS[name].inks
    if palettes:
        inks = np.array(palettes[rng.integers(len(palettes))], np.float32)
    else:
        plate, ink = _colour(rng), _colour(rng)
        while abs(_luma(plate) - _luma(ink)) < _MIN_CONTRAST:
            plate, ink = _colour(rng), _colour(rng)
        inks = np.array((plate, ink, ink), np.float32)
    fade, grey = rng.uniform(0, 0.35), rng.uniform(90, 190)
    return ((inks + rng.normal(0, 14, (3, 3))) * (1 - fade) + fade * grey).astype(np.float32)


def _painted(picture: Pixels, masks: Pixels, inks: Pixels) -> Pixels:
    for layer in range(3):
        cover = masks[:, :, layer, None]
        picture = picture + cover * (inks[layer] - picture)
    return picture


def _occluded(picture: Pixels, rng: Rng, hardness: float) -> Pixels:
    """Lays a strip (a branch, a cable, a finger) across the picture, sometimes two."""
    for _ in range(int(rng.binomial(2, min(0.25 * hardness, 1.0)))):
        side = len(picture)
        angle, offset, width = rng.uniform(0, pi), rng.uniform(-0.3, 0.3) * side, rng.uniform(0.02, 0.065) * side
        cover = np.clip(width + 0.5 - np.abs(_along(side, angle) - offset), 0, 1)[:, :, None]
        picture = picture + cover * (rng.uniform(0, 255, 3).astype(np.float32) - picture)
    return picture


def _along(side: int, angle: float) -> Pixels:
    """Each pixel's distance from the centre in a direction, pixels: (side, side) float32."""
    steps = np.arange(side, dtype=np.float32) - np.float32(side / 2)
    return steps[None, :] * np.float32(cos(angle)) + steps[:, None] * np.float32(sin(angle))


def _lit(picture: Pixels, rng: Rng, hardness: float) -> Pixels:
    """Light from one side, a soft-edged shadow, the lamp's colour, glare, exposure and gamma. Result 0 to 255."""
    side = len(picture)
    light = 1 + np.float32(rng.uniform(0, 0.7) * hardness / side) * _along(side, rng.uniform(0, 2 * pi))
    if rng.random() < 0.55 * hardness:
        edge_px, offset = rng.uniform(1, 0.15 * side), rng.uniform(-0.3, 0.3) * side
        shade = np.clip((_along(side, rng.uniform(0, 2 * pi)) - offset) / np.float32(edge_px), 0, 1)
        light = light * (1 - np.float32(rng.uniform(0.3, 0.6)) * shade)
    cast = rng.normal(1, 0.08, 3)
    picture = picture * light[:, :, None] * (cast * np.exp(rng.normal(-0.1, 0.35 * hardness))).astype(np.float32)
    if rng.random() < 0.2 * hardness:
        x, y = rng.uniform(0, side, 2).astype(np.float32)
        steps = np.arange(side, dtype=np.float32)
        distance = ((steps[None, :] - x) ** 2 + (steps[:, None] - y) ** 2) / np.float32((rng.uniform(0.08, 0.3) * side) ** 2)
        picture = picture + np.float32(rng.uniform(60, 220)) * np.exp(-distance)[:, :, None]
    gamma = np.float32(np.exp(rng.normal(0, 0.28 * hardness)))
    return (255 * (np.clip(picture, 0, 255) / 255) ** gamma).astype(np.float32)


def _captured(picture: Pixels, rng: Rng, hardness: float) -> NDArray[np.uint8]:
    """Lens, motion, sensor and compression, in the order in which a camera adds them."""
    image = Image.fromarray(picture.astype(np.uint8))
    kind, amount = rng.random(), float(rng.uniform(0.4, 1.95)) * hardness * len(picture) / 96
    if kind < 0.45:
        image = image.filter(ImageFilter.GaussianBlur(amount))
    elif kind < 0.65:
        image = image.filter(_motion(rng.uniform(0, pi)))
    noise_steps = np.float32(rng.uniform(1.4, 22) * hardness)
    noisy = np.asarray(image, np.float32) + noise_steps * rng.standard_normal(picture.shape, np.float32)
    pixels = np.clip(noisy + np.float32(0.5), 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(30, 90)))
        pixels = np.asarray(Image.open(buffer).convert("RGB"))
    return pixels


def _motion(angle: float) -> ImageFilter.Kernel:
    """A 5 x 5 kernel that smears along a line."""
    kernel = np.zeros((5, 5))
    for step in np.linspace(-2, 2, 17):
        kernel[round(2 + step * sin(angle)), round(2 + step * cos(angle))] += 1
    return ImageFilter.Kernel((5, 5), kernel.ravel().tolist())
