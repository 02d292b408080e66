"""The macOS runtime, with a stand-in for coremltools and its Core ML: none of this has run on a Mac.

The stand-in predicts with the evaluator, takes what Core ML takes (Pillow images, float arrays), and gives what Core ML gives.
"""

from __future__ import annotations

import enum
import platform
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from coreml_packages import artifact, pixels, program_in, written
from PIL import Image

from squeeze_export.core import Session
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.runtimes.coreml import evaluator, native


class MLCPUComputeDevice:
    """Core ML's devices are known by their classes' names."""


class MLGPUComputeDevice:
    """Likewise."""


class MLNeuralEngineComputeDevice:
    """Likewise."""


ComputeUnit = enum.Enum("ComputeUnit", ["ALL", "CPU_AND_GPU", "CPU_ONLY", "CPU_AND_NE"])
ON_DEVICE = {"CPU_ONLY": MLCPUComputeDevice, "CPU_AND_GPU": MLGPUComputeDevice, "CPU_AND_NE": MLNeuralEngineComputeDevice}


class Mac:
    """A Mac with Core ML.

    Attributes:
        devices: that it has.
        opened: path and compute units of every model.
        given: what `predict` was handed, by type and name.
        answer: what `predict` gives for pixels (N, H, W, 3); the tests change it.
        preferred: device of an operator for the asked compute units.
    """

    def __init__(self) -> None:
        self.devices: list[Any] = [MLCPUComputeDevice(), MLGPUComputeDevice(), MLNeuralEngineComputeDevice()]
        self.opened: list[tuple[str, str]] = []
        self.given: list[dict[str, Any]] = []
        self.answer: Callable[[Any], dict[str, Any]] = lambda images: {}
        self.preferred: Callable[[str, str], Any] = lambda operator, units: ON_DEVICE[units]()
        self.warning = ""

    def model(self, path: str, compute_units: Any) -> Any:
        self.opened.append((path, compute_units.name))
        if self.warning:
            warnings.warn(self.warning, RuntimeWarning, stacklevel=1)
        return SimpleNamespace(predict=self.predict, get_compiled_model_path=lambda: path)

    def predict(self, given: dict[str, Any]) -> dict[str, Any]:
        self.given.append(given)
        (value,) = given.values()
        return self.answer(np.asarray(value)[None] if isinstance(value, Image.Image) else value)

    def plan(self, path: str, compute_units: Any) -> Any:
        operations = [SimpleNamespace(operator_name=operation.operator) for operation in program_in(Path(path)).operations]

        def usage(operation: Any) -> Any:
            if operation.operator_name.startswith("const"):
                return None
            return SimpleNamespace(preferred_compute_device=self.preferred(operation.operator_name, compute_units.name))

        functions = {"main": SimpleNamespace(block=SimpleNamespace(operations=operations))}
        structure = SimpleNamespace(program=SimpleNamespace(functions=functions))
        return SimpleNamespace(model_structure=structure, get_compute_device_usage_for_mlprogram_operation=usage)


@pytest.fixture
def package(int8_mlpackage: Path) -> Path:
    return int8_mlpackage


@pytest.fixture
def mac(package: Path, monkeypatch: pytest.MonkeyPatch) -> Mac:
    """In place once the package has been written, which takes the real coremltools."""
    return in_place(monkeypatch)


def in_place(monkeypatch: pytest.MonkeyPatch) -> Mac:
    mac, tools = Mac(), ModuleType("coremltools")

    class MLModel:
        """What coremltools calls a model."""

        def __new__(cls, path: str, compute_units: Any) -> Any:
            return mac.model(path, compute_units)

        @staticmethod
        def get_available_compute_devices() -> list[Any]:
            return mac.devices

    plan = SimpleNamespace(load_from_path=lambda path, compute_units: mac.plan(path, compute_units))
    models = SimpleNamespace(MLModel=MLModel, compute_plan=SimpleNamespace(MLComputePlan=plan))
    tools.ComputeUnit, tools.models = ComputeUnit, models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "coremltools", tools)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    return mac


def opened(path: Path, device: str = "cpu") -> native.CoremlSession:
    return native.open_session(artifact(path), device=device, threads=1)


@pytest.mark.parametrize(("device", "units"), [("cpu", "CPU_ONLY"), ("gpu", "CPU_AND_GPU"), ("npu", "CPU_AND_NE")])
def test_a_device_becomes_compute_units(package: Path, mac: Mac, device: str, units: str) -> None:
    assert native.devices() == ("cpu", "gpu", "npu")
    session: Session = opened(package, device)
    assert mac.opened == [(str(package), units)]
    assert (session.runtime, session.evidence, session.device, session.threads) == ("coreml", "measured", device, 1)
    running = [operation for operation in program_in(package).operations if not operation.operator.startswith("const")]
    assert session.kernels == f"Core ML ({len(running)} on {device})"
    assert session.placement.integer_mac_share == 1.0
    assert session.placement.source.startswith(f"devices: Core ML's compute plan ({len(running)} on {device})")


def test_operators_that_another_device_takes_are_told(package: Path, mac: Mac) -> None:
    mac.preferred = lambda operator, units: ON_DEVICE["CPU_ONLY" if operator == "reduce_mean" else units]()
    assert opened(package, "npu").kernels.endswith(" on npu, 1 on cpu)")


def test_a_device_that_core_ml_passes_over_is_unavailable(package: Path, mac: Mac) -> None:
    """The Neural Engine was asked for, and the CPU would answer."""
    mac.preferred = lambda operator, units: MLCPUComputeDevice()
    with pytest.raises(Unavailable, match=r"no operator of .* on the device `npu`") as caught:
        opened(package, "npu")
    assert caught.value.hint == "it prefers: cpu"


def test_a_mac_without_a_neural_engine_says_so(package: Path, mac: Mac) -> None:
    del mac.devices[2]
    assert native.devices() == ("cpu", "gpu")
    with pytest.raises(Unavailable, match="no device `npu` here") as caught:
        opened(package, "npu")
    assert caught.value.hint == "it has: cpu, gpu"


def test_an_image_goes_in_one_by_one_as_a_picture(package: Path, mac: Mac) -> None:
    mac.answer = lambda images: {"logits": images.mean(axis=(1, 2))}
    session = opened(package)
    found = session.infer(pixels(3))
    assert [(list(given), type(given["image"]), given["image"].mode) for given in mac.given] == [
        (["image"], Image.Image, "RGB"),
    ] * 3
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pixels(3).mean(axis=(1, 2)), rtol=1e-6)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.infer(pixels(1))


def test_it_answers_as_the_evaluator_where_core_ml_computes_the_same(package: Path, mac: Mac) -> None:
    expected = evaluator.open_session(artifact(package), device="cpu", threads=1)
    mac.answer = lambda images: {"logits": expected.infer(images)}
    np.testing.assert_array_equal(opened(package).infer(pixels(4)), expected.infer(pixels(4)))


@pytest.mark.parametrize(("least", "most", "sizes"), [(3, 0, [3, 3, 3]), (1, 4, [4, 3]), (1, 16, [7])])
def test_an_array_goes_in_as_floats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, most: int, sizes: list[int]
) -> None:
    path = written(
        tmp_path, lambda mb, x: mb.reduce_mean(x=x, axes=[1, 2], name="logits"), (least, 8, 8, 3), name="input", most=most
    )
    mac = in_place(monkeypatch)
    mac.answer = lambda images: {"logits": images.mean(axis=(1, 2))}
    np.testing.assert_allclose(opened(path).infer(pixels(7)), pixels(7).mean(axis=(1, 2)), rtol=1e-6)
    assert [given["input"].shape for given in mac.given] == [(size, 8, 8, 3) for size in sizes]
    assert {given["input"].dtype.name for given in mac.given} == {"float32"}


@pytest.mark.parametrize("classes", [("zebra", "ant", "bée"), (30, 10, 20)])
def test_a_classifiers_dictionary_becomes_a_row_in_class_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: tuple[Any, ...]
) -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.softmax(x=mb.reduce_mean(x=x, axes=[2, 3]), axis=-1, name="probabilities")

    path = written(tmp_path, build, color="RGB", name="image", classes=classes)
    mac = in_place(monkeypatch)
    shares = dict(zip(classes, (0.5, 0.25, 0.125), strict=True))
    mac.answer = lambda images: {"classLabel": classes[0], "classLabel_probs": dict(sorted(shares.items()))}
    assert opened(path).infer(pixels(2)).tolist() == [[0.5, 0.25, 0.125]] * 2


def test_what_core_ml_says_against_a_package_is_passed_on(package: Path, mac: Mac) -> None:
    mac.warning = "You will not be able to run predict().\nA reason."
    with pytest.raises(Refused, match=r"cannot open .*: You will not be able to run predict\(\)\. A reason\."):
        opened(package)


def test_whatever_coremltools_raises_is_passed_on_in_one_line(package: Path, mac: Mac, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(package)

    def fail(*args: Any) -> Any:
        raise Exception("Unable to load CoreML.framework.\nCannot make predictions.")

    mac.answer = fail
    with pytest.raises(Refused, match=r"cannot run .*: Unable to load CoreML.framework. Cannot make predictions.") as caught:
        session.infer(pixels(1))
    assert "\n" not in caught.value.message
    mac.answer = lambda images: {"other": images}
    with pytest.raises(Refused, match="logits"):
        session.infer(pixels(1))
    monkeypatch.setattr(mac, "plan", fail)
    with pytest.raises(Unavailable, match="does not tell where") as caught_plan:
        opened(package)
    assert caught_plan.value.hint is not None
    assert "14.4" in caught_plan.value.hint
    monkeypatch.setattr(mac, "model", fail)
    with pytest.raises(Refused, match="cannot open"):
        opened(package)


def test_a_mac_that_is_too_old_is_unavailable(mac: Mac, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise RuntimeError("MLComputeDevice is only available on macOS >= 14.0")

    monkeypatch.setattr(sys.modules["coremltools"].models.MLModel, "get_available_compute_devices", staticmethod(fail))
    with pytest.raises(Unavailable, match=r"macOS >= 14\.0") as caught:
        native.devices()
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Core ML tells its devices from macOS 14.4 on; `--runtime coreml-evaluator`")


def test_a_batch_of_another_shape_or_dtype_is_an_error_of_the_caller(package: Path, mac: Mac) -> None:
    session = opened(package)
    for batch in (pixels(1).astype(np.float32), pixels(1, 9), pixels(0)):
        with pytest.raises(ValueError, match="takes uint8"):
            session.infer(batch)
    with pytest.raises(BadInput, match="`0` threads"):
        native.open_session(artifact(package), device="cpu", threads=0)


def test_elsewhere_it_is_unavailable(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    for attempt in (native.devices, lambda: opened(package)):
        with pytest.raises(Unavailable, match="Core ML runs on macOS, this is Linux") as caught:
            attempt()
        assert caught.value.hint is not None
        assert "coreml-evaluator" in caught.value.hint


def test_without_coremltools_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(Unavailable, match="`coremltools` is not installed"):
        native.devices()


def test_inner_tensors_are_the_evaluators(package: Path) -> None:
    with pytest.raises(Unavailable, match="shows no inner tensors") as caught:
        native.inner_values(artifact(package), ["conv1"], pixels(1))
    assert caught.value.hint is not None
    assert "coreml-evaluator" in caught.value.hint
