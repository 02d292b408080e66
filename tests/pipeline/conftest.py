"""The tiny network, opened, quantized and exported; no test changes it."""

import pytest

from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.pipeline import Job, RunOptions, calibrate, export, open_network
from squeeze_export.registry import TARGETS


@pytest.fixture(scope="session")
def network(tiny):
    """The tiny network."""
    return open_network(tiny / "tiny.safetensors")


@pytest.fixture(scope="session")
def quantized(network, tiny):
    """Its integers."""
    return calibrate(network, tiny / "calib").quantized


@pytest.fixture(scope="session")
def made(network, quantized, tmp_path_factory):
    """Artifacts of every target: (target, scheme) -> artifact."""
    out = tmp_path_factory.mktemp("made")
    return {
        (target, scheme.name): export(source, target, scheme, out, name="net")[0]
        for target in TARGETS
        for scheme, source in ((FP32, network.graph), (INT8, quantized))
    }


@pytest.fixture
def job(tiny, tmp_path):
    """Makes a job on the tiny network; only one on ONNX unless told otherwise."""

    def make(**changes):
        values = {
            "targets": ("onnx",),
            "scheme": "int8",
            "weights": tiny / "tiny.safetensors",
            "calib": tiny / "calib",
            "out": tmp_path / "out",
            "run": RunOptions(rounds=2),
        }
        return Job(**values | changes)

    return make
