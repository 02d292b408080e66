"""torch runs the float ONNX files: the same answers as ONNX Runtime, and no device but the one that was asked for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export import demo
from squeeze_export.core import Artifact, EmitOptions
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.pipeline import calibrate, export, open_network
from squeeze_export.runtimes import onnxruntime, torch

pytest.importorskip("torch")


@cache
def network() -> Any:
    return open_network(None)


def written(folder: Path, scheme: str = "fp32", options: EmitOptions = EmitOptions()) -> Artifact:  # noqa: B008
    graph = calibrate(network(), None).quantized if scheme == "int8" else network().graph
    return export(graph, "onnx", scheme_named(scheme), folder, name="net", options=options)[0]


def drawn(count: int) -> Any:
    photos = sorted(demo.evaluation_folder().rglob("*.jpg"))[:count]
    return np.stack([load_pixels(photo, network().graph.preprocess) for photo in photos])


@pytest.mark.parametrize(("scheme", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_the_answers_are_onnx_runtimes(tmp_path: Path, scheme: str, tolerance: float) -> None:
    artifact, pixels = written(tmp_path, scheme), drawn(3)
    session = torch.open_session(artifact, device="cpu", threads=1)
    expected = onnxruntime.open_session(artifact, device="cpu", threads=1).infer(pixels)
    np.testing.assert_allclose(session.infer(pixels), expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert (session.runtime, session.device, session.threads, session.kernels) == ("torch", "cpu", 1, "ATen")
    assert (session.evidence, dict(session.facts)) == ("measured", {})


def test_everything_is_in_floats_and_meant_to_be(tmp_path: Path) -> None:
    placement = torch.open_session(written(tmp_path), device="cpu", threads=1).placement
    assert (placement.integer_count, placement.integer_mac_share, placement.fallbacks) == (0, 0.0, ())
    assert placement.operator_count == placement.device_count == len(placement.float_operators)
    assert "Conv conv10" in placement.float_operators


def test_an_integer_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="`DequantizeLinear` is no operator of a float file") as caught:
        torch.open_session(written(tmp_path, "int8"), device="cpu", threads=1)
    assert "--scheme fp32" in str(caught.value.hint)


def test_no_gpu_is_told_and_never_replaced(tmp_path: Path) -> None:
    import torch as library

    if library.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert torch.devices() == ("cpu",)
    with pytest.raises(Unavailable, match="torch has no device `cuda` here") as caught:
        torch.open_session(written(tmp_path), device="cuda", threads=1)
    assert "a build of torch with CUDA" in str(caught.value.hint)
    with pytest.raises(Unavailable, match="no device `npu`"):
        torch.open_session(written(tmp_path), device="npu", threads=1)


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="no NVIDIA GPU")
def test_a_gpu_answers_as_the_cpu(tmp_path: Path) -> None:
    artifact, pixels = written(tmp_path, options=EmitOptions("dynamic")), drawn(5)
    on_cpu, on_gpu = (torch.open_session(artifact, device=device, threads=1) for device in ("cpu", "cuda"))
    assert on_gpu.device == "cuda"
    for count in (1, 5, 3, 1):
        np.testing.assert_allclose(on_gpu.infer(pixels[:count]), on_cpu.infer(pixels[:count]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x07"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    artifact = written(tmp_path)
    artifact.path.write_bytes(content)
    with pytest.raises(Refused, match=r"torch cannot open it: .* is not a sound ONNX file"):
        torch.open_session(artifact, device="cpu", threads=1)


def test_misuse(tmp_path: Path) -> None:
    artifact = written(tmp_path)
    with pytest.raises(BadInput, match="`0` threads"):
        torch.open_session(artifact, device="cpu", threads=0)
    session = torch.open_session(artifact, device="cpu", threads=1)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.infer(drawn(1))
    artifact.path.unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        torch.open_session(artifact, device="cpu", threads=1)
