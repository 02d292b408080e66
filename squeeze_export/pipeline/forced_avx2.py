"""OpenVINO held to AVX2, in a process of its own: how a file answers on a CPU without VNNI, measured on one that has it.

oneDNN, which computes OpenVINO's convolutions, reads `ONEDNN_MAX_CPU_ISA` when it is loaded, so it is set for a new process. What
the kernels then do is what they do on a CPU that has no more than AVX2; how long they take is not.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy

from squeeze_export.core import ByteArray, FloatArray, Placement
from squeeze_export.errors import Refused, SqueezeExportError
from squeeze_export.files import write_bytes, write_text
from squeeze_export.pipeline.export import read_artifact
from squeeze_export.pipeline.processes import CHILD_CODE, ERROR_KINDS, reason_of_end
from squeeze_export.runtimes import runtime_named

RUNTIME = "openvino"
VARIABLE, ISA = "ONEDNN_MAX_CPU_ISA", "AVX2"
REQUEST, PIXELS, ANSWER, LOGITS, LOG = "request.json", "pixels.safetensors", "answer.json", "logits.safetensors", "log"
STARTING_S, IMAGE_S = 60, 5
"""How long the process may take: to start, and for each image."""


@dataclass(frozen=True, eq=False)
class ForcedRun:
    """What came of it.

    Attributes:
        logits: (N, classes) float32.
        device: that OpenVINO says it used.
        kernels: of the convolutions, such as `jit_avx2_I8`.
        placement: where the operators ran; None where OpenVINO does not tell.
    """

    logits: FloatArray
    device: str
    kernels: str
    placement: Placement | None


def can_be_forced() -> bool:
    """Whether this CPU is an x86: no other has AVX2."""
    return platform.machine().lower() in ("x86_64", "amd64")


def run_on_avx2(path: Path, pixels: ByteArray, *, threads: int = 1) -> ForcedRun:
    """Runs an exported OpenVINO folder.

    Args:
        path: the folder, with its sidecar.
        pixels: (N, H, W, 3) uint8, N at least 1.
        threads: intra-op threads.

    Raises:
        Unavailable: OpenVINO is not installed.
        Refused: OpenVINO failed, took too long, or used other kernels all the same.
    """
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as temporary:
        folder = Path(temporary)
        write_bytes(folder / PIXELS, safetensors.numpy.save({"pixels": pixels}))
        write_text(folder / REQUEST, json.dumps({"path": str(path.absolute()), "threads": threads}))
        answer = _answer(folder, limit_s=STARTING_S + IMAGE_S * len(pixels))
        logits: FloatArray = safetensors.numpy.load((folder / LOGITS).read_bytes())["logits"]
    found = answer["placement"]
    lists: dict[str, Any] = {name: tuple(value) for name, value in (found or {}).items() if isinstance(value, list)}
    placement = Placement(**{**found, **lists}) if found is not None else None
    if "avx2" not in answer["kernels"] or any(word in answer["kernels"] for word in ("avx512", "vnni", "amx")):
        raise Refused(f"OpenVINO ran `{answer['kernels']}`, though it was held to AVX2", hint="this CPU may have no AVX2")
    return ForcedRun(logits, answer["device"], answer["kernels"], placement)


def _answer(folder: Path, limit_s: float) -> dict[str, Any]:
    code = CHILD_CODE.format(path=sys.path, module="squeeze_export.pipeline.forced_avx2")
    with (folder / LOG).open("wb") as log:
        try:
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, VARIABLE: ISA, "TMPDIR": str(folder)},
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as err:
            raise Refused(f"OpenVINO held to AVX2 was not done within `{limit_s:.0f}` seconds", hint="fewer images") from err
    if done.returncode or not (folder / ANSWER).exists():
        raise Refused(f"OpenVINO held to AVX2 failed: {reason_of_end(folder / LOG, done.returncode)}")
    answer: dict[str, Any] = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
    if "kind" in answer:
        raise ERROR_KINDS[answer["kind"]](answer["message"], hint=answer["hint"])
    return answer


def main(folder: Path) -> None:
    """The other side: runs what `request.json` names, and writes the logits and `answer.json`, or what went wrong.

    Args:
        folder: of the hand-over.
    """
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    pixels = safetensors.numpy.load((folder / PIXELS).read_bytes())["pixels"]
    answer: dict[str, Any]
    try:
        session = runtime_named(RUNTIME).open_session(
            read_artifact(Path(request["path"])), device="cpu", threads=request["threads"]
        )
        try:
            write_bytes(folder / LOGITS, safetensors.numpy.save({"logits": session.infer(pixels)}))
            placement = None if session.placement is None else asdict(session.placement)
            answer = {"device": session.device, "kernels": session.kernels, "placement": placement}
        finally:
            session.close()
    except SqueezeExportError as err:
        answer = {"kind": type(err).__name__, "message": err.message, "hint": err.hint}
    write_text(folder / ANSWER, json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
