"""From what a job found to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from squeeze_export.core import Audit, Session
from squeeze_export.errors import Inapplicable, SqueezeExportError
from squeeze_export.measure.host import host_facts, tool_versions
from squeeze_export.measure.verdict import verdicts_of
from squeeze_export.pipeline.boards import BOARD
from squeeze_export.pipeline.sessions import BESIDE, Entry
from squeeze_export.results import SCHEMA_VERSION, Accuracy, Difference, Latency, Measurement, Report, Status

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
    "torch",
    "tensorflow-cpu",
    "nncf",
)


def measurement(
    entry: Entry,
    *,
    device_asked: str,
    session: Session | None = None,
    accuracy: Accuracy | None = None,
    latency: Latency | None = None,
    audit: Audit | None = None,
    failure: SqueezeExportError | None = None,
) -> Measurement:
    """One row: the artifact, and what its session says of itself, or why there is none."""
    artifact = entry.artifact
    return Measurement(
        artifact.target,
        artifact.scheme,
        artifact.path.name,
        artifact.sha256,
        artifact.size_bytes,
        runtime=(session.runtime if session and entry.runtime == BOARD else entry.runtime) if session or failure else "",
        device_asked=device_asked,
        device=session.device if session else "",
        kernels=session.kernels if session else "",
        evidence=session.evidence if session else "measured",
        status=_status(failure),
        reason=failure.message if failure else "",
        accuracy=accuracy,
        latency=latency,
        placement=session.placement if session else None,
        audit=audit,
        facts=dict(session.facts) if session else {},
        recipe=str(artifact.provenance.get("recipe", "")),
        checkpoint_sha256=str(artifact.provenance.get("checkpoint_sha256", "")),
    )


def _status(failure: SqueezeExportError | None) -> Status:
    if failure is None:
        return "ok"
    return "skipped" if isinstance(failure, Inapplicable) else "failed"


def report_of(
    rows: Sequence[Measurement],
    *,
    network: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    differences: Sequence[Difference] = (),
) -> Report:
    """The report, with this machine's facts, the versions of the tools, and the verdicts that follow from the rows."""
    return Report(
        SCHEMA_VERSION,
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tool_versions(TOOLS),
        host_facts(),
        network or {},
        calibration or {},
        evaluation or {},
        tuple(rows),
        tuple(warnings),
        tuple(differences),
        verdicts_of(rows, {beside: main for main, beside in BESIDE.items()}),
    )
