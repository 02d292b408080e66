"""What an OpenVINO file says of itself: the keys that OpenVINO's Model API reads, and this tool's own metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph

SECTION = "squeeze_export"
_PREFIX = f"{SECTION}."
_KEY = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML cannot hold in any spelling (XML 1.0, 2.2)."""


def runtime_info(network: Graph | QuantizedGraph, metadata: Mapping[str, str]) -> Iterator[tuple[tuple[str, str], str]]:
    """The entries of `rt_info`: (section, key) and text.

    Model API resizes and crops an image itself, so it is told how; mean, std and channel order are inside the network, so it is
    told of none. It takes RGB images then. What it calls `crop` cuts out the largest square and scales it: it knows no margin
    around the crop.

    Args:
        metadata: key -> text; `squeeze_export.` before a key is the section's name and is left out.

    Raises:
        ValueError: a key that is no XML name.
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
    """A label as Model API writes it: it splits the list at white space, so a label may hold none."""
    return "_".join(_FORBIDDEN.sub(" ", label).split()) or "_"


def labels_file(labels: Sequence[str]) -> bytes:
    """The labels as they are, one a line, UTF-8."""
    return "".join(f"{label}\n" for label in labels).encode("utf-8", "backslashreplace")
