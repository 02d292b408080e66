"""OpenVINO limited to AVX2, in a process of its own: what a file answers on a CPU without VNNI, measured on one that has it.

oneDNN, which computes OpenVINO's convolutions, reads `ONEDNN_MAX_CPU_ISA` when it is loaded, so a new process needs it. The kernels
then compute what they would on a CPU with AVX2 alone, but how long they take says nothing about such a CPU.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from squeeze_export.core import ByteArray, FloatArray, Placement
from squeeze_export.errors import Refused
from squeeze_export.pipeline.export import read_artifact
from squeeze_export.runtimes import runtime_named
from squeeze_export.workers.worker import Late, call

RUNTIME = "openvino"
VARIABLE, ISA = "ONEDNN_MAX_CPU_ISA", "AVX2"
STARTING_S, IMAGE_S = 60, 5
"""Time limits of the process: to start, and for each image."""


def can_be_forced() -> bool:
    """Whether this CPU is an x86; no other has AVX2."""
    return platform.machine().lower() in ("x86_64", "amd64")


def run_on_avx2(path: Path, pixels: ByteArray, *, threads: int = 1) -> tuple[FloatArray, dict[str, Any]]:
    """Runs an exported OpenVINO folder.

    Args:
        path: the folder, with its sidecar.
        pixels: (N, H, W, 3) uint8, N at least 1.
        threads: intra-op threads.

    Returns:
        (N, classes) float32 logits, and the `device`, `kernels` and `placement` that OpenVINO reports, as in a `Measurement`.

    Raises:
        Unavailable: OpenVINO is not installed.
        Refused: OpenVINO failed, took too long, or used other kernels anyway.
    """
    limit_s = STARTING_S + IMAGE_S * len(pixels)
    asked = {"path": str(path.absolute()), "threads": threads}
    try:
        answer, arrays = call(
            run_here, asked, {"pixels": pixels}, tool="OpenVINO held to AVX2", limit_s=limit_s, variables={VARIABLE: ISA}
        )
    except Late as err:
        raise Refused(err.message, hint="fewer images") from err
    if "avx2" not in answer["kernels"] or any(word in answer["kernels"] for word in ("avx512", "vnni", "amx")):
        raise Refused(f"OpenVINO ran `{answer['kernels']}`, though it was held to AVX2", hint="this CPU may have no AVX2")
    told = dict(answer)
    if told["placement"] is not None:
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in told["placement"].items()}
        told["placement"] = Placement(**values)
    return arrays["logits"], told


def run_here(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, FloatArray]]:
    """The other side: runs the file with whatever kernels this process has."""
    artifact = read_artifact(Path(values["path"]))
    with closing(runtime_named(RUNTIME).open_session(artifact, device="cpu", threads=values["threads"])) as session:
        logits = session.infer(arrays["pixels"])
        placement = None if session.placement is None else asdict(session.placement)
        return {"device": session.device, "kernels": session.kernels, "placement": placement}, {"logits": logits}
