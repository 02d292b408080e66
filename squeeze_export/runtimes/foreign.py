"""Files of other tools: pixels as such a file takes them, and what it gives as one row of numbers for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Artifact, ByteArray, FloatArray, Foreign, TensorSpec

_RAW = {("uint8", 0), ("int8", -128)}
"""Dtype and zero point of inputs that take the pixels themselves, in steps of 1."""


@dataclass(frozen=True)
class Adapter:
    """Stands between the pixels that all sessions take and a file of another tool.

    Attributes:
        input: the file's.
        output: the file's.
        foreign: how it takes images.
    """

    input: TensorSpec
    output: TensorSpec
    foreign: Foreign

    @property
    def sides(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        return self.foreign.preprocess.input_size

    @property
    def batch(self) -> int | None:
        """Images of an inference; None if the file leaves the batch free."""
        return self.input.shape[0] if isinstance(self.input.shape[0], int) else None

    def taken(self, images: ByteArray) -> NDArray[Any]:
        """What the file takes: (N, H, W, C) uint8 RGB pixels in its channel order, scale, layout and dtype."""
        spec, preprocess = self.input, self.foreign.preprocess
        ordered = images[..., ::-1] if preprocess.channel_order == "bgr" else images
        if (spec.dtype, spec.zero_point) in _RAW and spec.scale == 1:
            values: NDArray[Any] = ordered.astype(np.int16) + np.int16(spec.zero_point or 0)
        else:
            mean, std = np.array(preprocess.mean, np.float32), np.array(preprocess.std, np.float32)
            values = (ordered.astype(np.float32) - mean) / std
        if spec.scale is not None and spec.scale != 1:
            limits = np.iinfo(spec.dtype)
            steps = np.round(values / np.float32(spec.scale)) + np.float32(spec.zero_point or 0)
            values = np.clip(steps, limits.min, limits.max)
        if spec.layout == "NCHW":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values, spec.dtype)

    def given(self, values: NDArray[Any]) -> FloatArray:
        """(N, classes) float32 of what the file gave: logits, or probabilities where it ends in a softmax."""
        rows: FloatArray = values.reshape(len(values), -1).astype(np.float32)
        if self.output.scale is not None:
            rows = (rows - np.float32(self.output.zero_point or 0)) * np.float32(self.output.scale)
        return np.exp(rows) if self.foreign.ending == "log-softmax" else rows


def adapter_of(artifact: Artifact) -> Adapter | None:
    """Of a file of another tool; None for a file of this tool."""
    return None if artifact.foreign is None else Adapter(artifact.input, artifact.output, artifact.foreign)
