"""Core ML itself, on macOS: `predict` with the compute units of one device. Its figures are *measured*.

Written on Linux and never run on a Mac: its tests replace coremltools by a stand-in. It needs macOS 14.4, the first in which Core
ML tells what devices there are and which one it prefers for each operator. Without that, nobody could tell whether the Neural
Engine or the CPU answered.
"""

from __future__ import annotations

import platform
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, FloatArray, Placement, require
from squeeze_export.errors import Refused, Unavailable
from squeeze_export.formats.coreml.classifier import Classifier
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.coreml import open_package
from squeeze_export.runtimes.coreml.placement import read_placement
from squeeze_export.runtimes.quiet import one_line, quiet
from squeeze_export.runtimes.session import BatchSession, check_present, check_threads

NAME = "coreml"
COMPUTE_UNITS: Mapping[str, str] = {"cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "npu": "CPU_AND_NE"}
"""Device -> the compute units that Core ML may use. It may always use the CPU as well."""
DEVICE_NAMES = tuple(COMPUTE_UNITS)

_DEVICES: Mapping[str, str] = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "npu"}
_ELSEWHERE = "`--runtime coreml-evaluator` computes what a package says, on any machine"
_OLDEST = f"Core ML tells its devices from macOS 14.4 on; {_ELSEWHERE}"


def devices() -> tuple[str, ...]:
    """The devices that Core ML has on this Mac: `cpu`, `gpu`, `npu` (the Neural Engine).

    Raises:
        Unavailable: not macOS, too old, or `coremltools` is not installed.
    """
    try:
        found = {_DEVICES.get(type(device).__name__) for device in _coremltools().models.MLModel.get_available_compute_devices()}
    except (RuntimeError, AttributeError) as err:
        raise Unavailable(f"Core ML does not tell its devices: {err}", hint=_OLDEST) from err
    return tuple(device for device in COMPUTE_UNITS if device in found)


def open_session(artifact: Artifact, *, device: str, threads: int) -> CoremlSession:
    """Opens a package on a device; see `Runtime.open_session`. Core ML chooses its number of threads by itself.

    Raises:
        Unavailable: also if Core ML runs no operator of the package on the device.
    """
    check_threads(threads)
    check_present(device, devices(), "Core ML")
    return CoremlSession(open_package(artifact.path), artifact, device, threads)


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """Always raises Unavailable: Core ML shows only a model's outputs."""
    raise Unavailable(f"Core ML shows no inner tensors of `{artifact.path}`", hint="the runtime `coreml-evaluator` does")


class CoremlSession(BatchSession):
    """A package opened by Core ML on one device: images one by one, arrays in pieces.

    Attributes:
        device: the one that was asked for; Core ML prefers it for one operator at least.
        threads: as asked; Core ML does not say how many it uses.
        kernels: how many operators Core ML prefers to run on which device.
    """

    runtime = NAME

    def __init__(self, package: Classifier, artifact: Artifact, device: str, threads: int) -> None:
        pixels, path = package.pixels, artifact.path
        super().__init__((pixels.height, pixels.width, pixels.channels), least=pixels.least, most=pixels.most)
        self._package, self._artifact, self.device, self.threads = package, artifact, device, threads
        self._model: Any = _open(path, COMPUTE_UNITS[device])
        preferred = _preferred(self._model, path, COMPUTE_UNITS[device])
        if not preferred[device]:
            found = ", ".join(preferred) or "none"
            raise Unavailable(f"Core ML runs no operator of `{path}` on the device `{device}`", hint=f"it prefers: {found}")
        self._told = ", ".join(f"{count} on {name}" for name, count in preferred.items())
        self.kernels = f"Core ML ({self._told})"

    @cached_property
    def placement(self) -> Placement:
        """Integers as the package has them, devices from Core ML's compute plan."""
        placement = read_placement(self._package.program, scheme_named(self._artifact.scheme).floats)
        return replace(placement, source=f"devices: Core ML's compute plan ({self._told}); integers: {placement.source}")

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        from PIL import Image

        package = self._package
        image = images[0, ..., 0] if package.pixels.channels == 1 else images[0]
        given = Image.fromarray(image) if package.pixels.image else images.astype(np.float32)
        try:
            found = self._model.predict({package.pixels.name: given})
            if not package.labels:
                return np.array(found[package.result], np.float32).reshape(len(images), -1)
            shares = {str(label): share for label, share in found[package.result].items()}
            return np.array([[shares[label] for label in package.labels]], np.float32)
        except Exception as err:  # coremltools raises bare ones
            raise Refused(f"Core ML cannot run `{self._artifact.path}`: {one_line(err)}", hint="export the file again") from err

    def free(self) -> None:
        """See `BatchSession.free`."""
        self._model = None


def _coremltools() -> Any:
    """The package, without the frameworks that it would import for its converters.

    Raises:
        Unavailable: not macOS, or not installed.
    """
    if platform.system() != "Darwin":
        raise Unavailable(f"Core ML runs on macOS, this is {platform.system()}", hint=_ELSEWHERE)
    with quiet():
        return require("coremltools", "coreml", without=("torch", "tensorflow", "sklearn"))


def _open(path: Path, units: str) -> Any:
    tools = _coremltools()
    with quiet(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = tools.models.MLModel(str(path), compute_units=tools.ComputeUnit[units])
        except Exception as err:  # coremltools raises bare ones
            raise Refused(f"Core ML cannot open `{path}`: {one_line(err)}", hint="export the file again") from err
    # If Core ML objects to a package, coremltools gives a warning, and a model that cannot predict.
    failed = [warning for warning in caught if issubclass(warning.category, RuntimeWarning)]
    if failed:
        raise Refused(f"Core ML cannot open `{path}`: {one_line(failed[0].message)}", hint="export the file again")
    return model


def _preferred(model: Any, path: Path, units: str) -> Counter[str]:
    """Device -> how many operators Core ML prefers to run on it, the most first; constants run nowhere."""
    tools = _coremltools()
    try:
        plan = tools.models.compute_plan.MLComputePlan.load_from_path(
            model.get_compiled_model_path(), compute_units=tools.ComputeUnit[units]
        )
        operations = plan.model_structure.program.functions["main"].block.operations
        usages = [plan.get_compute_device_usage_for_mlprogram_operation(operation) for operation in operations]
    except Exception as err:  # coremltools raises bare ones
        raise Unavailable(f"Core ML does not tell where it runs `{path}`: {one_line(err)}", hint=_OLDEST) from err
    names = [type(usage.preferred_compute_device).__name__ for usage in usages if usage is not None]
    return Counter(dict(Counter(_DEVICES.get(name, name) for name in names).most_common()))
