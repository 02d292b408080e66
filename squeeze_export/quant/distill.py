"""Distillation: biases and ranges trained together until the logits are the float network's, on the calibration images alone.

No label is needed: the float network says what every image's logits should be, also of one that is mirrored and moved. Calibration
chose each range for its own tensor's error, and each bias for its own layer's mean; here the error of the logits decides, with all
the other layers' rounding present (Esser et al., "Learned Step Size Quantization", ICLR 2020, for the ranges' gradient). The
weights' integers stay: there are enough of them to memorize the calibration images. docs/quantization.md has figures, and
docs/decisions/quantization.md what else was tried.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from squeeze_export.core import ByteArray, require
from squeeze_export.graph.nodes import Add, Graph, QuantizedConv
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.graph.torch_network import torch_network
from squeeze_export.graph.trainable import Growths, integer_logits, integers_of, reproducible, shadows_of, to_tensor
from squeeze_export.quant.material import Material
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
DISTILLATION = "distillation"
"""Key of a table's provenance: what became of the distillation."""


def distill(start: QuantizedGraph, material: Material) -> QuantizedGraph:
    """Trains a table against the float network.

    On one machine the same arguments give the same integers.

    Args:
        start: the table, of a scheme with 8-bit activations.
        material: what it was made from.

    Returns:
        The trained table, or the start where there are fewer than `FEWEST_IMAGES` images, or where those held out are no better.
        Its provenance says under `DISTILLATION` whether it is the trained one (`kept`), how many images decided
        (`held_out_count`; 0 where there were too few), and on these the power of the logits' error over the logits' own
        (`error_before`, `error_after`), each image as often as it counts.

    Raises:
        Unavailable: torch is not installed.
    """
    torch = require("torch", "torch")
    pixels = material.pixels
    if len(pixels) < FEWEST_IMAGES:
        return _told(start, kept=False, held_out_count=0, error_before=0.0, error_after=0.0)
    draw = np.random.default_rng([material.seed, len(pixels)])
    held = np.arange(len(pixels)) % HELD_OUT == HELD_OUT - 1
    counts = np.array(material.weights)
    rows = np.repeat(np.flatnonzero(~held), counts[~held])
    with reproducible(THREADS):
        shadows, growths, network = shadows_of(start), growths_of(start, material.graph), torch_network(material.graph)
        for shadow in shadows.values():
            shadow.weight.requires_grad_(False)
        shifts, scales = [shadow.shift for shadow in shadows.values()], list(dict.fromkeys(growths.values()))
        adam = torch.optim.Adam([{"params": shifts, "lr": SHIFT_RATE}, {"params": scales, "lr": SCALE_RATE}], betas=DECAYS)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, UPDATES)

        def powers(images: ByteArray) -> tuple[Any, Any]:
            """Of the logits' error, and of the float network's logits."""
            x = to_tensor(images)
            with torch.no_grad():
                expected = network(x)
            difference = integer_logits(start, shadows, x, growths) - expected
            return difference.square().sum(), expected.square().sum()

        def held_out_error() -> float:
            noise, signal = 0.0, 0.0
            with torch.no_grad():
                for image, count in zip(pixels[held], counts[held].tolist(), strict=True):
                    one_noise, one_signal = powers(image[None])
                    noise += count * float(one_noise)
                    signal += count * float(one_signal)
            return noise / signal if signal > 0 else noise

        material.progress("distilling", 0, UPDATES)
        before = held_out_error()
        waiting: list[int] = []
        for done in range(UPDATES):
            if len(waiting) < BATCH:
                waiting += draw.permutation(rows).tolist()
            batch, waiting = waiting[:BATCH], waiting[BATCH:]
            noise, signal = powers(_augmented(pixels[batch], draw))
            adam.zero_grad()
            (noise / signal).backward()
            adam.step()
            decay.step()
            material.progress("distilling", done + 1, UPDATES)
        after = held_out_error()
        kept = after < before
        made = integers_of(start, shadows, growths) if kept else start
        errors = {"error_before": round(before, 9), "error_after": round(after, 9)}
        return _told(made, kept=kept, held_out_count=int(held.sum()), **errors)


def _told(table: QuantizedGraph, **facts: Any) -> QuantizedGraph:
    return replace(table, provenance={**table.provenance, DISTILLATION: facts})


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
