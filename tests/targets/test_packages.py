"""The distributions that a target names as its writers: their versions go into every file's provenance."""

from __future__ import annotations

import importlib.util
from importlib import metadata

import pytest

from squeeze_export.targets import target_named

MODULES = {"onnx": "onnx", "tflite": "ai_edge_litert", "openvino": "openvino", "coreml": "coremltools"}


@pytest.mark.parametrize("name", MODULES)
def test_a_target_names_the_distributions_that_write_it(name: str) -> None:
    packages = target_named(name).PACKAGES
    assert packages
    if importlib.util.find_spec(MODULES[name]) is None:
        pytest.skip(f"{MODULES[name]} is not installed")
    owners = metadata.packages_distributions()[MODULES[name]]
    assert set(packages) & set(owners)
    for package in packages:
        assert metadata.version(package)
