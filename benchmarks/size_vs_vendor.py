"""Bytes of every file: ours in each scheme, the vendors' own int8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.contestants import NETWORKS, OURS, contestants
from benchmarks.recording import write
from squeeze_export.files import content_size, read_content


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows: list[Sequence[str]] = []
    raw: list[dict[str, Any]] = []
    with contestants() as made:
        for entry in made:
            size_bytes = content_size(read_content(entry.path))
            raw.append(
                {
                    "network": entry.network,
                    "target": entry.target,
                    "scheme": entry.scheme,
                    "maker": entry.maker,
                    "size_bytes": size_bytes,
                }
            )
    for network in NETWORKS:
        for found in (found for found in raw if found["network"] == network):
            ours = next(
                other["size_bytes"]
                for other in raw
                if (other["network"], other["target"], other["scheme"], other["maker"]) == (network, found["target"], "int8", OURS)
            )
            size_bytes = found["size_bytes"]
            rows.append((network, found["target"], found["scheme"], found["maker"], f"{size_bytes:,}", f"{size_bytes / ours:.2f}"))
    write(
        "size_vs_vendor",
        "Bytes of the exported files",
        [
            "A folder counts with all its files. Our files contain labels and provenance. The last column is the ratio to "
            "our int8 file."
        ],
        ("network", "target", "scheme", "made by", "bytes", "to ours"),
        rows,
        raw,
    )


if __name__ == "__main__":
    main()
