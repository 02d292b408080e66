"""Quantization-aware training: the integers of a table, trained on labelled images against the labels and the fp32 reference.

The network runs forward in the table's own integers (`graph.trainable`), so what is trained is what ships. The loss is

    (1 - d) * cross_entropy(integers, labels) + d * KL(reference, integers)

with the reference's softmax as the soft target (Hinton, Vinyals, Dean, arXiv:1503.02531, at temperature 1): with the labels alone
the network would drift from the given one. Weights and biases are in integer steps, so one length, how far a weight may go in
all, fits every layer and any number of updates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ByteArray, Progress, require, silent
from squeeze_export.errors import BadInput
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import INT8, QuantizedGraph
from squeeze_export.graph.torch_network import torch_network
from squeeze_export.graph.trainable import (
    Shadow,
    integer_logits,
    integers_of,
    reproducible,
    shadows_of,
    to_tensor,
)
from squeeze_export.train.descent import Descent

MIN_COUNT = 100
"""Training images: with fewer, the held-out tenth is too small to tell one epoch from another."""
HELD_OUT_SHARE = 10
"""One in so many images is held out of the training, to choose the best epoch."""
SHIFT_SHARE = 0.5
"""How far a bias goes, in output steps, while a weight goes one weight step."""
LEAST_ERRORS = 2.0
"""By how many standard errors of the held-out losses an epoch must beat the start: less is luck with the images."""
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class QatSchedule:
    """How long and how fast to train.

    Attributes:
        epochs: rounds over the training images, at least 1.
        batch: images an update, at least 1.
        reach: how far a weight goes over the whole training, in integer steps, if its gradient is steady and equals its layer's
            root mean square; one with a larger gradient goes further. Past half a step the integer changes.
        distillation: share of the reference in the loss, 0 (labels alone) to 1 (reference alone).
        flip: mirror images at random, half of them: only if left and right mean the same.
        shift_px: move images by up to so many pixels, their edges repeated; 0 leaves them.
        seed: of the order, the held-out images and the augmentation.
        threads: torch's intra-op threads; sums depend on them in their last bits.
    """

    epochs: int = 3
    batch: int = 32
    reach: float = 0.3
    distillation: float = 0.9
    flip: bool = False
    shift_px: int = 0
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class HeldOut:
    """The integers on the held-out images.

    Attributes:
        loss: as trained, nats.
        agreement: share with the reference's top-1 class, 0 to 1.
        top1: share with the labelled class, 0 to 1.
    """

    loss: float
    agreement: float
    top1: float


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gives.

    Attributes:
        quantized: the integers of the best epoch; those of the start if no epoch is better.
        best_epoch: the one with the smallest held-out loss among those that `is_better` than the start; 0 is the start.
        losses: mean training loss of every epoch, nats.
        held_out: measured at the start and after every epoch.
        held_out_count: held-out images.
    """

    quantized: QuantizedGraph
    best_epoch: int
    losses: tuple[float, ...]
    held_out: tuple[HeldOut, ...]
    held_out_count: int


def train_integers(
    start: QuantizedGraph,
    reference: Graph,
    images: ByteArray,
    labels: NDArray[np.int64],
    schedule: QatSchedule,
    *,
    limits: Mapping[str, int],
    progress: Progress = silent,
) -> Trained:
    """Trains a table's weights and biases; its scales stay.

    On one machine, the same arguments give the same integers.

    Args:
        start: the integers to start from, scheme int8.
        reference: the float graph of the same network.
        images: (N, H, W, 3) uint8 RGB of the network's input size.
        labels: (N,) int64 class indices.
        schedule: how long and how fast.
        limits: convolution -> the largest magnitude of its integer weights.
        progress: told of every update.

    Raises:
        BadInput: another scheme, too few images, labels that are no class, a schedule out of range, or a loss that is not finite.
        Unavailable: torch is not installed.
    """
    check_schedule(schedule)
    _check(start, images, labels)
    torch = require("torch", "torch")
    draw = np.random.default_rng(schedule.seed)
    order = draw.permutation(len(images))
    held, kept = np.sort(order[: len(order) // HELD_OUT_SHARE]), np.sort(order[len(order) // HELD_OUT_SHARE :])
    with reproducible(schedule.threads):
        shadows, network = shadows_of(start, limits), torch_network(reference)
        updates = math.ceil(len(kept) / schedule.batch)
        trained = [(p, share) for s in shadows.values() for p, share in ((s.weight, 1.0), (s.shift, SHIFT_SHARE))]
        descent = Descent(trained, schedule.epochs * updates, schedule.reach)
        losses: list[float] = []
        at_start, first = _measure(start, shadows, network, images[held], labels[held], schedule)
        found, best, best_epoch = [at_start], start, 0
        for epoch in range(1, schedule.epochs + 1):
            total = 0.0
            rows = draw.permutation(kept)
            for update in range(updates):
                part = rows[update * schedule.batch : (update + 1) * schedule.batch]
                pixels = to_tensor(augmented(images[part], schedule, draw))
                with torch.no_grad():
                    expected = network(pixels)
                loss = _losses(integer_logits(start, shadows, pixels), expected, torch.from_numpy(labels[part]), schedule).mean()
                descent.clear()
                loss.backward()
                descent.step()
                total += float(loss.detach()) * len(part)
                if not math.isfinite(total):
                    raise BadInput(f"the loss of epoch `{epoch}` is `{float(loss.detach())}`", hint="a shorter reach")
                progress("training", (epoch - 1) * updates + update + 1, schedule.epochs * updates)
            losses.append(total / len(kept))
            measured, each = _measure(start, shadows, network, images[held], labels[held], schedule)
            found.append(measured)
            if measured.loss < found[best_epoch].loss and is_better(each, first):
                best, best_epoch = integers_of(start, shadows), epoch
    return Trained(best, best_epoch, tuple(losses), tuple(found), len(held))


def check_schedule(schedule: QatSchedule) -> None:
    """Refuses a schedule that cannot be carried out.

    Raises:
        BadInput: the first value out of its range.
    """
    for name, value, low, high in (
        ("epochs", schedule.epochs, 1, 1000),
        ("batch", schedule.batch, 1, 4096),
        ("reach", schedule.reach, 1e-6, 1000.0),
        ("distillation", schedule.distillation, 0.0, 1.0),
        ("shift", schedule.shift_px, 0, 64),
        ("threads", schedule.threads, 1, 1024),
    ):
        if not low <= value <= high:
            raise BadInput(f"the {name} `{value}` of the training is outside {low:g} to {high:g}")


def is_better(losses: NDArray[np.float64], than: NDArray[np.float64]) -> bool:
    """Whether losses are lower than others of the same images, (N,) each, by more than `LEAST_ERRORS` standard errors (paired)."""
    gains = than - losses
    return bool(gains.mean() > LEAST_ERRORS * gains.std(ddof=1) / math.sqrt(len(gains)))


def augmented(images: ByteArray, schedule: QatSchedule, draw: np.random.Generator) -> ByteArray:
    """A batch, (N, H, W, 3) uint8, with images mirrored and moved at random as the schedule says."""
    side, reach = images.shape[1], schedule.shift_px
    mirrored = draw.random(len(images)) < 0.5 if schedule.flip else np.zeros(len(images), bool)
    moves = draw.integers(-reach, reach + 1, (len(images), 2))
    result = np.empty_like(images)
    for row, (image, (down, right)) in enumerate(zip(images, moves, strict=True)):
        rows, columns = (np.clip(np.arange(side) - step, 0, side - 1) for step in (down, right))
        result[row] = image[rows[:, None], columns[::-1] if mirrored[row] else columns]
    return result


def _check(start: QuantizedGraph, images: ByteArray, labels: NDArray[np.int64]) -> None:
    if start.scheme != INT8:
        raise BadInput(f"training is for the scheme `{INT8.name}`, not `{start.scheme.name}`", hint="--int8")
    if len(images) < MIN_COUNT:
        raise BadInput(f"`{len(images)}` training images are too few", hint=f"at least {MIN_COUNT}, better thousands")
    class_count = start.sizes[start.output.name][2]
    if len(labels) != len(images) or labels.min() < 0 or labels.max() >= class_count:
        found = f"`{len(labels)}` labels from `{labels.min()}` to `{labels.max()}`"
        raise BadInput(f"{found} for {len(images)} images of {class_count} classes", hint="one class index for every image")


def _losses(logits: Any, expected: Any, labels: Any, schedule: QatSchedule) -> Any:
    from torch.nn import functional

    said, wanted = functional.log_softmax(logits, 1), functional.log_softmax(expected, 1)
    hard = functional.nll_loss(said, labels, reduction="none")
    soft = functional.kl_div(said, wanted, reduction="none", log_target=True).sum(1)
    return (1 - schedule.distillation) * hard + schedule.distillation * soft


def _measure(
    quantized: QuantizedGraph,
    shadows: Mapping[str, Shadow],
    network: Any,
    images: ByteArray,
    labels: NDArray[np.int64],
    schedule: QatSchedule,
) -> tuple[HeldOut, NDArray[np.float64]]:
    """The integers on images without augmentation, and each image's loss, (N,)."""
    torch = require("torch", "torch")
    losses, same, right = np.empty(len(images)), 0, 0
    with torch.no_grad():
        for first in range(0, len(images), _EVALUATION_BATCH):
            part = slice(first, first + _EVALUATION_BATCH)
            pixels, classes = to_tensor(images[part]), torch.from_numpy(labels[part])
            logits, expected = integer_logits(quantized, shadows, pixels), network(pixels)
            losses[part] = _losses(logits, expected, classes, schedule).numpy()
            same += int((logits.argmax(1) == expected.argmax(1)).sum())
            right += int((logits.argmax(1) == classes).sum())
    return HeldOut(float(losses.mean()), same / len(images), right / len(images)), losses
