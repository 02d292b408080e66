"""A small training loop: batches of pixels in, the tensors of a plain SqueezeNet out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Preprocess, Progress, require, silent
from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import Architecture
from squeeze_export.nets.modules import build_module, fold_batch_norm, load_arrays

if TYPE_CHECKING:
    from torch import Tensor

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N, H, W, 3) uint8 RGB of the network's input size, and labels (N,) int64."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        steps: optimiser steps, at least 1.
        peak_lr: the highest rate of the one-cycle schedule (Smith and Topin, arXiv:1708.07120), reached after `warm_share` of
            the steps; it then falls to nearly 0 on a cosine.
        warm_share: share of the steps spent rising, in (0, 1).
        momentum: of SGD with Nesterov's correction.
        weight_decay: on weights only, not on biases or normalisations.
        label_smoothing: 0 to 1 (exclusive).
        batch_norm: normalise while training, and fold at the end.
        bfloat16: compute the forward pass in bfloat16 where that is safe; about half the time on CPUs that have it.
        seed: of the initial weights.
        threads: torch's intra-op threads; 0 leaves torch's own choice.
    """

    steps: int
    peak_lr: float = 0.4
    warm_share: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 2e-4
    label_smoothing: float = 0.0
    batch_norm: bool = True
    bfloat16: bool = False
    seed: int = 0
    threads: int = 0


@dataclass(frozen=True)
class Fitted:
    """What a training run gives.

    Attributes:
        tensors: the plain network's state dict, float32: keys and shapes of `tensor_shapes`.
        losses: the training loss of every step, nats.
    """

    tensors: dict[str, NDArray[np.float32]]
    losses: tuple[float, ...]


def shuffled(images: NDArray[np.uint8], labels: NDArray[np.int64], *, batch: int, seed: int) -> Iterator[Batch]:
    """Draws batches from arrays without end, every image once per round, in an order that depends on `seed` alone.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,) int64.
        batch: images per batch, 1 to N; the rest of a round that fills no batch waits for the next one.
        seed: of the order.

    Raises:
        BadInput: the batch is larger than the data, or the two lengths differ.
    """
    if not 1 <= batch <= len(images) or len(images) != len(labels):
        raise BadInput(f"batches of `{batch}` cannot be drawn from {len(images)} images with {len(labels)} labels")
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(images))
        for first in range(0, len(order) - batch + 1, batch):
            rows = order[first : first + batch]
            yield images[rows], labels[rows]


def fit(
    arch: Architecture,
    batches: Iterable[Batch],
    preprocess: Preprocess,
    schedule: Schedule,
    *,
    start: Mapping[str, NDArray[np.float32]] | None = None,
    progress: Progress = silent,
) -> Fitted:
    """Trains by SGD on cross entropy.

    Args:
        arch: the network.
        batches: at least `schedule.steps` of them; the images are of `preprocess.crop_px`.
        preprocess: mean, std and channel order are applied here.
        schedule: how long and how fast.
        start: tensors to start from (`tensor_shapes` keys) instead of fresh ones; needs `batch_norm=False`.
        progress: told of every step.

    Raises:
        BadInput: too few batches, `start` together with `batch_norm`, or a loss that is no longer finite.
        Unavailable: torch is not installed.
    """
    torch = require("torch", "torch")
    if start is not None and schedule.batch_norm:
        raise BadInput("a start from given tensors has no normalisation to continue", hint="batch_norm=False")
    if schedule.threads:
        torch.set_num_threads(schedule.threads)
    torch.manual_seed(schedule.seed)
    module = build_module(arch, batch_norm=schedule.batch_norm)
    if start is not None:
        load_arrays(module, start)
    decayed = [p for p in module.parameters() if p.ndim > 1]
    free = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=schedule.peak_lr, momentum=schedule.momentum, nesterov=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, schedule.peak_lr, total_steps=schedule.steps, pct_start=schedule.warm_share, cycle_momentum=False
    )
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=schedule.label_smoothing)
    losses: list[float] = []
    module.train()
    for images, labels in islice(batches, schedule.steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=schedule.bfloat16):
            logits = module(to_input(images, preprocess))
        loss = criterion(logits.float(), torch.from_numpy(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise BadInput(f"the loss is `{losses[-1]}` at step {len(losses)}", hint="a lower peak_lr")
        progress("train", len(losses), schedule.steps)
    if len(losses) < schedule.steps:
        raise BadInput(f"`{len(losses)}` batches were given for {schedule.steps} steps")
    return Fitted(fold_batch_norm(module, arch), tuple(losses))


def to_input(images: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    """(N, H, W, 3) uint8 RGB to the normalised (N, 3, H, W) float32 tensor, channels last in memory."""
    torch = require("torch", "torch")
    if preprocess.channel_order == "bgr":
        images = images[..., ::-1]
    pixels = torch.from_numpy(np.ascontiguousarray(images)).float()
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    normalised: Tensor = ((pixels - mean) / std).permute(0, 3, 1, 2)
    return normalised
