"""The cross-target table on real photographs: the five int8 files against the exact integer run and against each other."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.contestants import NETWORKS
from benchmarks.integers import FAST
from benchmarks.recording import assets, write
from squeeze_export.core import EmitOptions
from squeeze_export.pipeline import Job, RunOptions, run
from squeeze_export.registry import TARGETS
from squeeze_export.report.tables import difference_table
from squeeze_export.report.wording import sentence

COUNT = 200


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows, raw, note, header = [], [], "", []
    for network, file in NETWORKS.items():
        for compute in ("float32", "float16"):
            with tempfile.TemporaryDirectory() as folder:
                report = run(
                    Job(
                        targets=tuple(TARGETS),
                        scheme="int8",
                        weights=assets() / "weights" / file,
                        calib=assets() / "images" / "calib",
                        eval=assets() / "images" / "eval",
                        labels=assets() / "images" / "imagenet_wnids.txt",
                        out=Path(folder),
                        options=EmitOptions(coreml_compute=compute),
                        run=RunOptions(emulated_images=COUNT),
                        bench=False,
                    )
                )
            table = difference_table(report)
            assert table is not None
            note, header = sentence(table.note), [column.name for column in table.columns]
            for difference, row in zip(report.differences, table.rows, strict=True):
                is_coreml = "coreml" in difference.second
                if is_coreml or compute == "float32":
                    rows.append((network, *row[:1], f"{row[1]}, {compute}" if is_coreml else row[1], *row[2:]))
                    raw.append({"network": network, "coreml_compute": compute, **asdict(difference)})
    write(
        "same_integers",
        "The same integers in five formats",
        [f"{note} Core ML's packages are written with float32 and with float16 between their integers."],
        ("network", *header),
        rows,
        raw,
        integers=[FAST],
    )


if __name__ == "__main__":
    main()
