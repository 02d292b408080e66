"""The vendors' own post-training quantizers, to compare with: the same graph and images in, a file of the same target out.

Nothing of ours goes into their integers. Each runs in a process of its own (see `_process`). One peer is one module that
satisfies `Peer`, and one line in `PEERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from squeeze_export.core import ByteArray
from squeeze_export.errors import BadInput
from squeeze_export.files import Content
from squeeze_export.graph.nodes import Graph


@dataclass(frozen=True, eq=False)
class Source:
    """What a peer quantizes. It takes the graph or the file, whichever its tool reads.

    Attributes:
        graph: the float graph; mean, std and channel order are inside conv1, so that it takes raw RGB pixels.
        fp32: our own file or folder of the peer's target, in fp32, batch 1.
        pixels: (N, H, W, 3) uint8 calibration images.
    """

    graph: Graph
    fp32: Path
    pixels: ByteArray


class Peer(Protocol):
    """What a peer's module offers. Frameworks are imported inside the functions, and only in the peer's own process.

    Attributes:
        NAME: of the vendor's tool.
        TARGET: what it writes.
        RECIPES: names for `--recipe`; the first is the vendor's default.
    """

    NAME: str
    TARGET: str
    RECIPES: tuple[str, ...]

    def method(self, recipe: str) -> str:
        """What is done, in the vendor's own words; for provenance and reports.

        Raises:
            BadInput: no such recipe.
        """

    def quantize(self, source: Source, recipe: str) -> Content:
        """Lets the vendor's tool quantize; it works on every image, at a batch of 1 unless `method` says otherwise.

        Returns:
            The file or folder as the vendor's tool wrote it: (1, H, W, 3) pixels in, (1, classes) float32 `logits` out.

        Raises:
            BadInput: no such recipe.
            Unavailable: the tool is not installed.
            Refused: the tool failed; the message is its own last word.
        """


PEERS: Mapping[str, str] = {
    "onnx": "squeeze_export.peers.onnxruntime",
    "tflite": "squeeze_export.peers.tensorflow",
    "openvino": "squeeze_export.peers.nncf",
    "coreml": "squeeze_export.peers.coremltools",
}
"""Target -> the module of its vendor's quantizer."""


def peer_of(target: str) -> Peer:
    """Looks up who quantizes for a target.

    Raises:
        BadInput: the target has no peer.
    """
    if target not in PEERS:
        raise BadInput(f"no vendor's quantizer is known for `{target}`", hint=f"there is one for: {', '.join(PEERS)}")
    return cast(Peer, importlib.import_module(PEERS[target]))


def peer_for(target: str, recipe: str) -> Peer:
    """Looks up who quantizes for a target in a certain way.

    Raises:
        BadInput: the target has no peer, or its peer no such recipe.
    """
    peer = peer_of(target)
    peer.method(recipe)
    return peer


def method_of(methods: Mapping[str, str], recipe: str, tool: str) -> str:
    """The entry of a peer's own list of methods.

    Raises:
        BadInput: there is none.
    """
    if recipe not in methods:
        raise BadInput(f"{tool} has no recipe called `{recipe}`", hint=f"one of: {', '.join(methods)}")
    return methods[recipe]
