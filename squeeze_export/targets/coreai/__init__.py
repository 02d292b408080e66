"""Core AI: an `.aimodel` folder for iOS 27 and macOS 27, written with `coreai-core` alone, without torch or ONNX.

    input    (N, H, W, 3) uint8 or float32 pixels, 0 to 255
    output   `logits`, `probabilities` or `scores`: (N, classes) float32, in the order of the classes

Core AI has no type for a classifier: the labels are a list in the metadata. An int8 file's metadata also hold each tensor's scale
and zero point, because the exact form's program holds ratios of scales alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from squeeze_export import __version__
from squeeze_export.core import EmitOptions, require
from squeeze_export.errors import BadInput, Refused
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme
from squeeze_export.targets.coreai.asset import asset_files
from squeeze_export.targets.coreai.program import EXTRA, build_module

NAME = "coreai"
SUFFIX = ".aimodel"
SCHEMES = ("fp32", "fp16", "int8", "int8-per-tensor", "w8")
RUNTIMES = ("coreai",)
PACKAGES = ("coreai-core",)

STEPS_KEY = "steps"
"""Metadata key: tensor's name -> scale and zero point."""
MAX_REASON_CHARACTERS = 300


def emit(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions, metadata: Mapping[str, str]) -> dict[str, bytes]:
    """Writes the network as an asset.

    Args:
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        scheme: one of `SCHEMES`.
        options: the outer form.
        metadata: into the creator's metadata, with the list `labels`.

    Returns:
        Path inside the asset -> bytes; the same arguments give the same bytes.

    Raises:
        BadInput: the exact form is asked for in float16, or the input's name is no identifier.
        Refused: a number is beyond float16, a sum is too large for the exact form, or Core AI refuses the program.
        Unavailable: `coreai-core` is not installed.
    """
    if scheme.integer and options.coreai_form == "exact" and options.coreai_compute != "float32":
        raise BadInput("float16 cannot hold the sums of the exact form", hint="--coreai-form qdq, or --coreai-compute float32")
    require("coreai", EXTRA)
    told: dict[str, Any] = {**metadata, **({"labels": list(network.labels)} if network.labels else {})}
    if isinstance(network, QuantizedGraph):
        told[STEPS_KEY] = {name: [q.scale, q.zero_point] for name, q in network.tensors.items()}
    about = f"{network.name}, {scheme.name}: image classifier of {network.output.shape[1]} classes"
    try:
        module = build_module(network, scheme, options)
        return asset_files(module, told, author=f"squeeze-export {__version__}", description=about)
    except (RuntimeError, TypeError, ValueError) as err:  # what Core AI raises
        reason = " ".join(str(err).split())[:MAX_REASON_CHARACTERS]
        raise Refused(f"coreai-core refuses the program: {reason}") from err
