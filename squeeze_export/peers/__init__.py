"""The vendors' own post-training quantizers, for comparison: the same graph and images in, a file of the same target out.

None of our code touches their integers. Each runs in its own process (see `process`). One peer is one module that satisfies `Peer`,
and one line in `registry.PEERS`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ByteArray
from squeeze_export.errors import BadInput, did_you_mean
from squeeze_export.files import Content
from squeeze_export.graph.nodes import Graph
from squeeze_export.registry import PEERS, entry_named


@dataclass(frozen=True, eq=False)
class Source:
    """What a peer quantizes: the graph or the file, whichever its tool reads.

    Attributes:
        graph: the float graph; mean, std and channel order are folded into conv1, so it takes raw RGB pixels.
        fp32: our own file or folder of the peer's target, in fp32, batch 1.
        pixels: (N, H, W, 3) uint8 calibration images.
        validation: (M, H, W, 3) uint8 labelled images, for the recipes in `Peer.LABELLED`; M at least 1.
        labels: (M,) class indices of these, at least 0.

    Raises:
        ValueError: there are not as many labels as labelled images, or a label is unknown.
    """

    graph: Graph
    fp32: Path
    pixels: ByteArray
    validation: ByteArray | None = None
    labels: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        images, labels = (() if values is None else values for values in (self.validation, self.labels))
        if (self.validation is None) != (self.labels is None) or len(images) != len(labels):
            raise ValueError(f"{len(images)} images with {len(labels)} labels")
        if self.labels is not None and (not len(self.labels) or self.labels.min() < 0):
            raise ValueError("no labelled image, or one whose class is unknown")


class Peer(Protocol):
    """What a peer's module offers. Frameworks are imported inside the functions, and only in the peer's own process.

    Attributes:
        TARGET: the format that it writes.
        TOOL: its name in error messages.
        PACKAGES: distributions whose versions go into the provenance, if they are installed.
        METHODS: name for `--recipe` -> the method, by the vendor's own names; the first is the vendor's default.
        LABELLED: the recipes that need `Source.validation` and `Source.labels`.
    """

    TARGET: str
    TOOL: str
    PACKAGES: tuple[str, ...]
    METHODS: Mapping[str, str]
    LABELLED: tuple[str, ...] = ()

    @abstractmethod
    def work(self, source: Source, recipe: str, folder: Path) -> Content:
        """Quantizes, in the peer's own process; see `quantize`. `folder` is an empty folder for the tool's own files."""

    def method(self, recipe: str) -> str:
        """The method of a recipe, by the vendor's own names; for provenance and reports.

        Raises:
            BadInput: no such recipe.
        """
        if recipe not in self.METHODS:
            raise BadInput(f"{self.TOOL} has no recipe called `{recipe}`", hint=did_you_mean(recipe, self.METHODS))
        return self.METHODS[recipe]

    def quantize(self, source: Source, recipe: str) -> Content:
        """Quantizes with the vendor's tool. It sees every image, in batches of 1 unless `method` says otherwise.

        Returns:
            The file or folder that the vendor's tool wrote: (1, H, W, 3) pixels in, (1, classes) float32 `logits` out.

        Raises:
            BadInput: no such recipe, or one in `LABELLED` without labelled images.
            Unavailable: the tool is not installed.
            Refused: the tool failed; the message ends with the tool's own.
        """
        from squeeze_export.peers.process import run_apart  # which imports `Source`

        self.method(recipe)
        if recipe in self.LABELLED and source.validation is None:
            raise BadInput(f"{self.TOOL}'s accuracy control needs labelled images", hint="--eval DIR --labels FILE")
        return run_apart(PEERS[self.TARGET], source, recipe, tool=self.TOOL)


def peer_of(target: str) -> Peer:
    """Looks up the peer of a target.

    Raises:
        BadInput: the target has no peer.
    """
    return cast(Peer, entry_named(target, PEERS, "peer", Peer))
