"""Distillation: biases and ranges trained together until the logits are the float network's, on the calibration images alone.

No label is needed: the float network says what every image's logits should be, also of one that is mirrored and moved. Calibration
chose each range for its own tensor's error, and each bias for its own layer's mean; here the error of the logits decides, with all
the other layers' rounding present (Esser et al., "Learned Step Size Quantization", ICLR 2020, for the ranges' gradient). The
weights' integers stay: there are enough of them to learn the calibration images by heart. docs/quantization.md has figures, and
docs/decisions/quantization.md what else was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ByteArray, Progress, require, silent
from squeeze_export.graph.nodes import Add, Graph, QuantizedConv
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.graph.torch_network import torch_network
from squeeze_export.graph.trainable import (
    Growths,
    Shadow,
    integer_logits,
    integers_of,
    reproducible,
    shadows_of,
    to_tensor,
)
from squeeze_export.quant.ranges import scale_groups

if TYPE_CHECKING:
    from torch import Tensor

UPDATES = 100
BATCH = 8
"""Images an update."""
SHIFT_RATE = 0.006
"""Of Adam for a bias, in steps of its layer's output an update; it falls to 0 along a cosine, as the other does."""
SCALE_RATE = 0.0025
"""Of Adam for a range, in its logarithm an update."""
DECAYS = (0.9, 0.99)
SHIFT_PX = 8
"""How far an image is moved at most: what leaves on one side comes back on the other."""
THREADS = 2
"""Of torch: the bits of a sum depend on how many there are, and the table is to be the same on any number of cores."""
HELD_OUT = 16
"""Of so many images one is not trained on: those decide whether the result is better than the start."""
FEWEST_IMAGES = 2 * HELD_OUT


@dataclass(frozen=True, eq=False)
class Distilled:
    """What distillation gives.

    Attributes:
        quantized: the trained table, or the start.
        kept: whether it is the trained one.
        held_out_count: images that decided; 0 where there were too few to train.
        error_before: power of the logits' error on them over the logits' own, each image as often as it counts; of the start.
        error_after: likewise of the trained table.
    """

    quantized: QuantizedGraph
    kept: bool = False
    held_out_count: int = 0
    error_before: float = 0.0
    error_after: float = 0.0


def distill(
    start: QuantizedGraph,
    reference: Graph,
    pixels: ByteArray,
    *,
    weights: tuple[int, ...],
    seed: int,
    progress: Progress = silent,
) -> Distilled:
    """Trains a table against the float network.

    On one machine the same arguments give the same integers.

    Args:
        start: of a scheme with 8-bit activations.
        reference: the float graph that it was made from.
        pixels: (N, H, W, 3) uint8, the calibration images.
        weights: N, how often each image counts.
        seed: of order and augmentation.
        progress: told of the updates.

    Returns:
        the trained table, or the start where there are fewer than `FEWEST_IMAGES` images, or where those held out are no better.

    Raises:
        Unavailable: torch is not installed.
    """
    torch = require("torch", "torch")
    if len(pixels) < FEWEST_IMAGES:
        return Distilled(start)
    draw = np.random.default_rng([seed, len(pixels)])
    held = np.arange(len(pixels)) % HELD_OUT == HELD_OUT - 1
    counts = np.array(weights)
    rows = np.repeat(np.flatnonzero(~held), counts[~held])
    with reproducible(THREADS):
        shadows, growths, network = shadows_of(start), growths_of(start, reference), torch_network(reference)
        for shadow in shadows.values():
            shadow.weight.requires_grad_(False)
        shifts, scales = [shadow.shift for shadow in shadows.values()], list(dict.fromkeys(growths.values()))
        adam = torch.optim.Adam([{"params": shifts, "lr": SHIFT_RATE}, {"params": scales, "lr": SCALE_RATE}], betas=DECAYS)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, UPDATES)
        before = _error(start, shadows, growths, network, pixels[held], counts[held])
        waiting: list[int] = []
        for done in range(UPDATES):
            if len(waiting) < BATCH:
                waiting += draw.permutation(rows).tolist()
            batch, waiting = waiting[:BATCH], waiting[BATCH:]
            images = to_tensor(_augmented(pixels[batch], draw))
            with torch.no_grad():
                expected = network(images)
            difference = integer_logits(start, shadows, images, growths) - expected
            adam.zero_grad()
            (difference.square().sum() / expected.square().sum()).backward()
            adam.step()
            decay.step()
            progress("distilling", done + 1, UPDATES)
        after = _error(start, shadows, growths, network, pixels[held], counts[held])
        kept = after < before
        made = integers_of(start, shadows, growths) if kept else start
        return Distilled(made, kept, int(held.sum()), before, after)


def growths_of(quantized: QuantizedGraph, graph: Graph) -> Growths:
    """What is trained of the scales: one number a scale group, 0 to begin with.

    The input's scale is 1, and that of conv10's output is chosen for the average pool (`ranges.summable`): both stay. Where the
    scheme has logits in integers, their rounding is not part of the training.
    """
    torch = require("torch", "torch")
    groups = scale_groups(graph)
    fixed = {groups[graph.input.name], groups[graph.nodes[-1].inputs[0]]}
    free = {groups[node.name] for node in quantized.nodes if isinstance(node, QuantizedConv | Add)} - fixed
    made: dict[str, Tensor] = {group: torch.zeros((), requires_grad=True) for group in sorted(free)}
    return {name: made[groups[name]] for name in quantized.tensors if groups[name] in made}


def _augmented(images: ByteArray, draw: np.random.Generator) -> ByteArray:
    """Each image moved, and mirrored or not, at random."""
    moves = draw.integers(-SHIFT_PX, SHIFT_PX + 1, (len(images), 2))
    mirrored = draw.random(len(images)) < 0.5
    return np.stack(
        [np.roll(image[:, ::-1] if m else image, move, (0, 1)) for image, m, move in zip(images, mirrored, moves, strict=True)]
    )


def _error(
    quantized: QuantizedGraph,
    shadows: Mapping[str, Shadow],
    growths: Growths,
    network: Any,
    pixels: ByteArray,
    counts: NDArray[np.int64],
) -> float:
    """Power of the logits' error over the logits' own, each of the (N, H, W, 3) images as often as it counts."""
    torch = require("torch", "torch")
    noise, signal = 0.0, 0.0
    with torch.no_grad():
        for image, count in zip(pixels, counts, strict=True):
            x = to_tensor(image[None])
            expected = network(x)
            difference = integer_logits(quantized, shadows, x, growths) - expected
            noise += int(count) * float(difference.square().sum())
            signal += int(count) * float(expected.square().sum())
    return noise / signal if signal > 0 else noise
