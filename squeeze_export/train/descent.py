"""The optimiser of the integers: Adam's moments, but one second moment for each tensor (Zhang et al., arXiv:2406.16793).

A well calibrated table is near its optimum: the gradients of most weights are only noise. Adam would move each of them by a full
rate and undo what calibration compensated; with one scale for each tensor only the weights that matter move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from squeeze_export.core import require

if TYPE_CHECKING:
    from torch import Tensor

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99
_SMALLEST = 1e-20


class Descent:
    """Moves parameters down their gradients.

    Args:
        parameters: leaves, each with its share of the rate.
        updates: how many there will be.
        reach: how far a parameter moves over all updates if its gradient is steady and equals its tensor's root mean square.
    """

    def __init__(self, parameters: Sequence[tuple[Tensor, float]], updates: int, reach: float) -> None:
        torch = require("torch", "torch")
        self._parameters = list(parameters)
        self._first = [torch.zeros_like(parameter) for parameter, _ in self._parameters]
        self._second = [0.0] * len(self._parameters)
        self._updates, self._done = updates, 0
        self._peak_rate = 2 * reach / updates  # the mean of a cosine from 1 to 0 is a half

    def clear(self) -> None:
        """Forgets the gradients."""
        for parameter, _ in self._parameters:
            parameter.grad = None

    def step(self) -> None:
        """One update from the current gradients."""
        torch = require("torch", "torch")
        rate = self._peak_rate * 0.5 * (1 + math.cos(math.pi * self._done / self._updates))
        self._done += 1
        with torch.no_grad():
            for index, (parameter, share) in enumerate(self._parameters):
                gradient, first = parameter.grad, self._first[index]
                assert gradient is not None
                first.mul_(FIRST_DECAY).add_(gradient, alpha=1 - FIRST_DECAY)
                power = float(gradient.square().mean())
                self._second[index] = SECOND_DECAY * self._second[index] + (1 - SECOND_DECAY) * power
                mean = first / (1 - FIRST_DECAY**self._done)
                size = math.sqrt(self._second[index] / (1 - SECOND_DECAY**self._done)) + _SMALLEST
                parameter.sub_(mean, alpha=rate * share / size)
