"""From what a job found to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from squeeze_export.core import Assumption
from squeeze_export.measure.host import host_facts, tool_versions
from squeeze_export.measure.verdict import verdicts_of
from squeeze_export.pipeline.sessions import DEFAULT_PRECISION
from squeeze_export.results import SCHEMA, ComparedImages, Difference, Measurement, Report, Roofline

TOOLS = (
    "squeeze-export",
    "numpy",
    "Pillow",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "flatbuffers",
    "openvino",
    "coremltools",
    "coreai-core",
    "torch",
    "tensorflow-cpu",
    "nncf",
)


def report_of(
    rows: Sequence[Measurement],
    *,
    network: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    differences: Sequence[Difference] = (),
    assumptions: Sequence[Assumption] = (),
    images: ComparedImages | None = None,
    roofline: Roofline | None = None,
) -> Report:
    """The report, with this machine's facts, the versions of the tools, and the verdicts that follow from the rows."""
    return Report(
        SCHEMA.version,
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tool_versions(TOOLS),
        host_facts(),
        network or {},
        calibration or {},
        evaluation or {},
        tuple(rows),
        tuple(warnings),
        tuple(differences),
        verdicts_of(rows, {beside: main for main, beside in DEFAULT_PRECISION.items()}),
        tuple(assumptions),
        images=images,
        roofline=roofline,
    )
