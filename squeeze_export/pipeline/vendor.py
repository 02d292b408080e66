"""Quantization of the same checkpoint and images by the vendors' own tools, to compare with: `--recipe vendor`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Artifact, ByteArray, EmitOptions
from squeeze_export.errors import BadInput
from squeeze_export.files import write_draft
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import FP32, INT8, QuantizedGraph
from squeeze_export.images.calibration import CalibrationImages
from squeeze_export.images.stream import MAX_LOADED_BYTES
from squeeze_export.measure.host import tool_versions
from squeeze_export.peers import Source, peer_of
from squeeze_export.pipeline.evaluation import Evaluation
from squeeze_export.pipeline.export import keep, metadata_of, provenance_of
from squeeze_export.registry import PEERS
from squeeze_export.targets import target_named


@dataclass(frozen=True, eq=False)
class Vendor:
    """What the vendors' tools are given.

    Attributes:
        recipe: `vendor`, or another recipe of a vendor's tool.
        pixels: (N, H, W, 3) uint8: the calibration images.
        image_hashes: SHA-256 of their files.
        source: where they are from.
        validation: (M, H, W, 3) uint8: labelled images, for the recipes that need some.
        labels: (M,) their class indices.
        warnings: what the user should know about the images.
    """

    recipe: str
    pixels: ByteArray
    image_hashes: tuple[str, ...]
    source: str
    validation: ByteArray | None = None
    labels: NDArray[np.int64] | None = None
    warnings: tuple[str, ...] = ()

    def facts(self) -> dict[str, object]:
        """What a report says about it."""
        return {"source": self.source, "image_count": len(self.image_hashes), "recipe": self.recipe, "scheme": INT8.name}


def check_vendor(targets: Sequence[str], recipe: str, scheme: str, options: EmitOptions) -> None:
    """Refuses what the vendors' tools cannot be asked for.

    Raises:
        BadInput: another scheme than int8, another outer form than the default, or a recipe that a target's vendor does not have.
    """
    if scheme != INT8.name:
        raise BadInput(f"the recipe `{recipe}` makes `{INT8.name}`, not `{scheme}`", hint="--int8")
    if options != EmitOptions():
        hint = "leave out --batch, --input, --softmax, --sigmoid, and the options of Core ML and Core AI"
        raise BadInput(f"the recipe `{recipe}` takes one uint8 image and gives logits", hint=hint)
    for target in targets:
        if target not in PEERS:
            raise BadInput(f"there is no vendor's quantizer for {target} files", hint=f"there is one for: {', '.join(PEERS)}")
        peer_of(target).method(recipe)


def vendor_images(images: CalibrationImages, recipe: str, labelled: Evaluation | None) -> Vendor:
    """What the vendors' tools are given.

    Args:
        images: to calibrate on.
        recipe: a vendor's.
        labelled: images with labels, if the recipe needs them.

    Raises:
        BadInput: too many labelled images.
    """
    vendor = Vendor(recipe, images.batch.pixels, images.batch.hashes, images.folders[0]["name"], warnings=images.warnings)
    if labelled is None:
        return vendor
    kept, size_bytes = [], 0
    for batch in labelled.stream:
        known = batch.labels >= 0
        kept.append((batch.pixels[known], batch.labels[known]))
        size_bytes += batch.pixels.nbytes
        if size_bytes > MAX_LOADED_BYTES:
            raise BadInput(f"the images for `{recipe}` take more than `{MAX_LOADED_BYTES}` bytes", hint="--eval with fewer")
    pixels, labels = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    if not len(labels):
        return vendor
    seen = f"`{recipe}` used these evaluation images and labels to choose what stays in float: its accuracy here looks too good"
    return replace(vendor, validation=pixels, labels=labels, warnings=(*vendor.warnings, seen))


def export_vendor(
    vendor: Vendor, graph: Graph | QuantizedGraph, target: str, out: Path, *, name: str, origin: Mapping[str, Any]
) -> Artifact:
    """Writes `<name>.<recipe>.int8<suffix>` by the vendor's tool; its audit names what is not integer in it.

    `origin`, of `Network`, goes into the sidecar.

    Raises:
        BadInput: the target's vendor has no such recipe.
        Unavailable: the vendor's tool is not installed.
        Refused: it failed.
    """
    peer = peer_of(target)
    module = target_named(target)
    assert isinstance(graph, Graph)  # its integers are the vendor's to make
    provenance = provenance_of(graph, INT8, target) | {
        "recipe": vendor.recipe,
        "method": peer.method(vendor.recipe),
        "versions": tool_versions(peer.PACKAGES),
    }
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
        # The vendor's tool copies the metadata of this file into its own.
        start = Path(folder) / f"fp32{module.SUFFIX}"
        write_draft(start, module.emit(graph, FP32, EmitOptions(), metadata_of(provenance)))
        content = peer.quantize(Source(graph, start, vendor.pixels, vendor.validation, vendor.labels), vendor.recipe)
    path = out / f"{name}.{vendor.recipe}.{INT8.name}{module.SUFFIX}"
    return keep(content, path, target, INT8, {**provenance, **origin}, graph.labels, promised=False)
