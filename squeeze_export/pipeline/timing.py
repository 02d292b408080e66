"""The timing job: exported files against the clock, all in the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from squeeze_export.core import Progress, silent
from squeeze_export.pipeline.export import read_artifact
from squeeze_export.pipeline.measuring import measured
from squeeze_export.pipeline.sessions import RunOptions, entries_of
from squeeze_export.pipeline.summary import report_of
from squeeze_export.results import Report


def bench_files(files: Sequence[Path], *, options: RunOptions | None = None, progress: Progress = silent) -> Report:
    """Times exported files in interleaved rounds; an fp32 file among them is the baseline of its target and checkpoint.

    Raises:
        BadInput: a file without its sidecar.
    """
    chosen = options or RunOptions()
    entries = entries_of([read_artifact(path) for path in files], chosen)
    return report_of(measured(entries, chosen, bench=True, progress=progress).rows)
