"""An OpenVINO file's metadata: the keys that OpenVINO's Model API reads, and this tool's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph

SECTION = "squeeze_export"
_PREFIX = f"{SECTION}."
_KEY = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML cannot represent (XML 1.0, 2.2)."""


def runtime_info(network: Graph | QuantizedGraph, metadata: Mapping[str, str]) -> Iterator[tuple[tuple[str, str], str]]:
    """The entries of `rt_info`: (section, key) and text.

    Model API resizes and crops RGB images by these entries. Mean, std and channel order are part of the network and are not
    repeated. Its resize type `crop` cuts out the largest square and scales it, without a margin.

    Args:
        metadata: key -> text; the prefix `squeeze_export.` of a key becomes the section.

    Raises:
        ValueError: a key is no XML name.
    """
    model_info = {
        "model_type": "Classification",
        "resize_type": "crop",
        "reverse_input_channels": "False",
        "mean_values": "0 0 0",
        "scale_values": "1 1 1",
    }
    if network.labels:
        model_info["labels"] = " ".join(label_word(label) for label in network.labels)
    for key, text in sorted(model_info.items()):
        yield ("model_info", key), text
    for key, text in sorted(metadata.items()):
        key = key.removeprefix(_PREFIX)
        if not _KEY.fullmatch(key):
            raise ValueError(f"the metadata key {key!r} is no XML name")
        yield (SECTION, key), _FORBIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def label_word(label: str) -> str:
    """A label without white space, at which Model API splits the list."""
    return "_".join(_FORBIDDEN.sub(" ", label).split()) or "_"


def labels_file(labels: Sequence[str]) -> bytes:
    """The labels, one per line, in UTF-8."""
    return "".join(f"{label}\n" for label in labels).encode("utf-8", "backslashreplace")
