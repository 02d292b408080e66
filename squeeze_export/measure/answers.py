"""What each image was answered, collected batch by batch beside the sums of `accuracy.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray
from squeeze_export.results import NOT_RUN, UNLABELLED, Answers, ComparedImages, PackedNumbers, PackedText

MOST_NAMES = 100_000
"""Of more images the report holds hashes and answers, but no names."""
_BEST = 5


class AnswerLog:
    """The answers of one file, or of the reference.

    ComparedImages are added in the order of the set; those that were not run count too.
    """

    def __init__(self) -> None:
        self._top1: list[NDArray[np.int64]] = []
        self._rank: list[NDArray[np.int64]] = []

    def add(self, logits: FloatArray, labels: NDArray[np.int64], ran: NDArray[np.bool_] | None = None) -> None:
        """Adds a batch.

        Args:
            logits: (M, C) float32, of the images that ran.
            labels: (N,) int64 class index, `UNLABELLED` where unknown.
            ran: (N,) which images ran, M of them; None: all.
        """
        mask = np.ones(len(labels), np.bool_) if ran is None else ran
        best = np.argsort(-logits, axis=1, kind="stable")[:, :_BEST]
        top1, rank = np.full(len(labels), NOT_RUN, np.int64), np.full(len(labels), NOT_RUN, np.int64)
        top1[mask] = best[:, 0]
        found = best == labels[mask, None]
        rank[mask] = np.where(labels[mask] == UNLABELLED, NOT_RUN, np.where(found.any(axis=1), found.argmax(axis=1), _BEST))
        self._top1.append(top1)
        self._rank.append(rank)

    @property
    def answers(self) -> Answers:
        """Of all images so far."""
        return Answers(_packed(self._top1), _packed(self._rank))


class ImageLog:
    """The images that were compared on, and what the reference answered.

    Args:
        class_names: of the network's classes, or none.
    """

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        self._class_names = class_names
        self._names: list[str] = []
        self._hashes: list[NDArray[np.int64]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._reference = AnswerLog()

    def add(
        self, files: Sequence[Path], root: Path, hashes: Sequence[str], labels: NDArray[np.int64], reference: FloatArray
    ) -> None:
        """Adds a batch: its N files below `root`, their N SHA-256 in hexadecimal, (N,) labels and the (N, C) reference logits."""
        names = [file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name for file in files]
        self._names += names[: MOST_NAMES + 1 - len(self._names)]
        self._hashes.append(np.array([int(digest[:16], 16) >> 1 for digest in hashes], np.int64))
        self._labels.append(labels)
        self._reference.add(reference, labels)

    @property
    def images(self) -> ComparedImages:
        """All so far."""
        names, classes = (_packed_names(texts) for texts in (self._names, self._class_names))
        return ComparedImages(_packed(self._hashes), _packed(self._labels), self._reference.answers, names, classes)


def _packed(parts: Sequence[NDArray[np.int64]]) -> PackedNumbers:
    return PackedNumbers.of(np.concatenate([np.empty(0, np.int64), *parts]))


def _packed_names(texts: Sequence[str]) -> PackedText | None:
    return PackedText.of(texts) if 0 < len(texts) <= MOST_NAMES else None
