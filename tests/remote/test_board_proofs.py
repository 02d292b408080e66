"""Proofs that need more than a machine that runs the tests has: named by environment variables, skipped where those are not set.

SQUEEZE_EXPORT_TFLITE_RUNTIME_PYTHON: the Python of an environment that holds only tflite-runtime 2.14 and numpy < 2.
SQUEEZE_EXPORT_ARM64_ROOT: a folder with usr/bin/python3 for arm64, its libraries, numpy, ai-edge-litert, onnxruntime, and
proc/cpuinfo of a Cortex-A76; `qemu-aarch64-static` runs it.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from board_programs import wrapper

from squeeze_export.core import TORCHVISION, Artifact
from squeeze_export.graph.quantized import INT8
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.pipeline import RunOptions, bench_files, calibrate, export, open_network
from squeeze_export.runtimes import runtime_named

PHOTO_COUNT = 20


def named(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return value


@pytest.fixture(scope="module")
def real(assets, tmp_path_factory) -> tuple[Artifact, Artifact, np.ndarray]:
    """torchvision's SqueezeNet 1.1 in int8 as TFLite and as ONNX, and 20 photographs: (20, 224, 224, 3) uint8."""
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    network = open_network(assets / "weights" / "squeezenet1_1.safetensors")
    quantized = calibrate(network, assets / "images" / "calib").quantized
    folder = tmp_path_factory.mktemp("real")
    tflite, onnx = (export(quantized, target, INT8, folder, name="v11")[0] for target in ("tflite", "onnx"))
    photos = sorted((assets / "images" / "eval").glob("*/*.jpg"))
    chosen = photos[:: len(photos) // PHOTO_COUNT][:PHOTO_COUNT]
    return tflite, onnx, np.stack([load_pixels(photo, TORCHVISION) for photo in chosen])


def logits_here(artifact, runtime, pixels):
    return runtime_named(runtime).open_session(artifact, device="cpu", threads=1).infer(pixels)


def test_the_builtin_kernels_of_tflite_runtime_are_those_of_litert(loopback, request):
    python = named("SQUEEZE_EXPORT_TFLITE_RUNTIME_PYTHON")
    artifact, _, pixels = request.getfixturevalue("real")
    with loopback.reached(python) as board:
        assert set(board.link.greeting["runtimes"]) == {"tflite_runtime"}
        session = board.open_session(artifact, runtime="litert-builtin", device="cpu", threads=1)
        assert session.kernels == "builtin"
        assert session.facts["runtime_version"].startswith("tflite_runtime ")
        logits = session.infer(pixels)
    np.testing.assert_array_equal(logits, logits_here(artifact, "litert-builtin", pixels))
    assert not np.array_equal(logits, logits_here(artifact, "litert", pixels))  # XNNPACK rounds otherwise: the control
    assert loopback.left_behind() == []


def test_arm_kernels_under_qemu(loopback, request, tmp_path):
    root = Path(named("SQUEEZE_EXPORT_ARM64_ROOT"))
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None:
        pytest.skip("no qemu-aarch64-static")
    artifact, onnx, pixels = request.getfixturevalue("real")
    python = wrapper(tmp_path, "python", f'exec {qemu} -cpu cortex-a76 -L "{root}" "{root}/usr/bin/python3" "$@"')
    with loopback.reached(python) as board:
        assert (board.evidence, board.facts["architecture"]) == ("emulated", "aarch64")
        session = board.open_session(artifact, runtime=None, device="cpu", threads=1)
        assert (session.runtime, session.kernels, session.evidence) == ("litert", "XNNPACK", "emulated")
        np.testing.assert_array_equal(session.infer(pixels), logits_here(artifact, "litert", pixels))
        session = board.open_session(onnx, runtime=None, device="cpu", threads=1)
        np.testing.assert_array_equal(session.infer(pixels), logits_here(onnx, "onnxruntime", pixels))
    assert loopback.left_behind() == []
    options = RunOptions(on=loopback.url, ssh_config=loopback.config, board_python=python, rounds=1)
    (row,) = bench_files([artifact.path], options=replace(options, emulated_images=1)).measurements
    assert (row.evidence, row.latency) == ("emulated", None)
