"""Which SoCs Qualcomm's library compiles for, at which architecture, and in which schemes: the demo network, for each of them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.integers import FAST
from benchmarks.recording import write
from squeeze_export.compilers import qnn as compiler
from squeeze_export.core import Artifact
from squeeze_export.errors import Refused
from squeeze_export.pipeline import Job, run
from squeeze_export.pipeline.export import read_artifact


def compiled(source: Artifact, soc: str) -> dict[str, Any]:
    """What became of one file for one SoC: the settings it was compiled with, or why it was not."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = compiler.compile_for(source, soc, {}, Path(folder))
    except Refused as err:
        return {"failure": err.message}
    return {"failure": "", "size_bytes": len(made.content), **made.settings}


def main() -> None:
    """Runs the benchmark and writes its results."""
    raw: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        sources = {}
        for scheme in compiler.SCHEMES:
            out = Path(folder) / scheme
            (row,) = run(Job(targets=("onnx",), scheme=scheme, out=out, validate=False, bench=False)).measurements
            sources[scheme] = read_artifact(out / row.artifact)
        for soc in compiler.CHIPS:
            found = {scheme: compiled(source, soc) for scheme, source in sources.items()}
            raw.append({"soc": soc, "soc_model": compiler.SOC_MODELS[soc], **found})
            print(soc, {scheme: entry["failure"][:40] or entry["htp_arch"] for scheme, entry in found.items()}, file=sys.stderr)
    groups: dict[tuple[str, str], list[str]] = {}
    versions = set()
    for entry in raw:
        sound = [scheme for scheme in compiler.SCHEMES if not entry[scheme]["failure"]]
        arches = {entry[scheme]["htp_arch"] for scheme in sound}
        versions |= {entry[scheme]["qairt"] for scheme in sound}
        groups.setdefault((", ".join(sorted(arches)) or "-", ", ".join(sound) or "none"), []).append(entry["soc"])
    rows: list[Sequence[str]] = [
        (arch, schemes, ", ".join(names)) for (arch, schemes), names in sorted(groups.items(), reverse=True)
    ]
    write(
        "qnn_socs",
        "What Qualcomm's library compiles for",
        [
            f"The demo network, by QAIRT {', '.join(sorted(versions))}. Each file was loaded again and answered as the session "
            "that it came from, and the context binary names its SoC; the architecture is that of the same record."
        ],
        ("HTP", "schemes", "SoCs"),
        rows,
        raw,
        integers=[FAST],
    )


if __name__ == "__main__":
    main()
