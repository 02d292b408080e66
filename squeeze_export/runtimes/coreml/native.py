"""Core ML itself, on macOS: `predict` with the compute units of one device. What it says is *measured*.

Written on Linux and never run on a Mac: its tests put a stand-in in coremltools' place. It needs macOS 14.4, from which on Core ML
tells what devices there are and which one it prefers for each operator; without that, a Neural Engine that was asked for and a CPU
that answers could not be told apart.
"""

from __future__ import annotations

import platform
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray, require
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.formats.coreml.package import Package, read_package
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.coreml.placement import read_placement
from squeeze_export.runtimes.quiet import quiet

NAME = "coreml"
COMPUTE_UNITS: Mapping[str, str] = {"cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "npu": "CPU_AND_NE"}
"""Device -> the compute units that Core ML may use. It always may use the CPU as well."""

_DEVICES: Mapping[str, str] = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "npu"}
_ELSEWHERE = "`--runtime coreml-evaluator` computes what a package says, on any machine"
_OLDEST = f"Core ML tells its devices from macOS 14.4 on; {_ELSEWHERE}"


def devices() -> tuple[str, ...]:
    """The devices that Core ML says it has on this Mac: `cpu`, `gpu`, `npu` (the Neural Engine).

    Raises:
        Unavailable: not macOS, too old, or `coremltools` is not installed.
    """
    try:
        found = {_DEVICES.get(type(device).__name__) for device in _coremltools().models.MLModel.get_available_compute_devices()}
    except (RuntimeError, AttributeError) as err:
        raise Unavailable(f"Core ML does not tell its devices: {err}", hint=_OLDEST) from err
    return tuple(device for device in COMPUTE_UNITS if device in found)


def open_session(artifact: Artifact, *, device: str, threads: int) -> CoremlSession:
    """Opens a package on a device.

    Args:
        artifact: of the target `coreml`.
        device: one of `devices()`.
        threads: at least 1. Core ML takes as many as it likes and cannot be told.

    Raises:
        BadInput: `threads` is below 1, or the package cannot be read.
        Unavailable: not macOS, no such device, or Core ML runs no operator of the package on it.
        Refused: Core ML cannot open the package, or it is no image classifier.
    """
    if threads < 1:
        raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")
    check_device(device)
    return CoremlSession(read_package(artifact.path), artifact, device, threads)


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    present = devices()
    if device not in present:
        raise Unavailable(f"Core ML has no device `{device}` here", hint=f"it has: {', '.join(present)}")


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """Core ML shows nothing but a model's outputs.

    Raises:
        Unavailable: always.
    """
    raise Unavailable(f"Core ML shows no inner tensors of `{artifact.path}`", hint="the runtime `coreml-evaluator` does")


class CoremlSession:
    """A package opened by Core ML on one device; satisfies `core.Session`.

    Attributes:
        runtime: `coreml`.
        evidence: `measured`.
        device: the one that was asked for; Core ML says that it prefers it for one operator at least.
        threads: as asked; Core ML does not say how many it uses.
        kernels: on which device Core ML says it prefers how many operators.
        placement: integers as the package has them, devices from Core ML's compute plan.

    Raises:
        Unavailable: Core ML runs no operator on the device.
        Refused: Core ML cannot open the package, or it does not give one row of numbers an image.
    """

    runtime = NAME
    evidence: Evidence = "measured"
    facts: Mapping[str, Any] = MappingProxyType({})
    clock = None
    gives_logits = True

    def __init__(self, package: Package, artifact: Artifact, device: str, threads: int) -> None:
        path = artifact.path
        self._package, self._path, self.device, self.threads = package, path, device, threads
        self._model: Any = _open(path, COMPUTE_UNITS[device])
        preferred = _preferred(self._model, path, COMPUTE_UNITS[device])
        if not preferred[device]:
            found = ", ".join(preferred) or "none"
            raise Unavailable(f"Core ML runs no operator of `{path}` on the device `{device}`", hint=f"it prefers: {found}")
        told = ", ".join(f"{count} on {name}" for name, count in preferred.items())
        self.kernels = f"Core ML ({told})"
        running = [entry for entry in package.program.operations if not entry.operator.startswith("const")]
        placement = read_placement(package.program, running, scheme_named(artifact.scheme).floats)
        self.placement = replace(placement, source=f"devices: Core ML's compute plan ({told}); integers: {placement.source}")

    def infer(self, batch: ByteArray) -> FloatArray:
        """Runs a batch in pieces that the package takes: images one by one; the last piece is filled up with black ones.

        Args:
            batch: (N, H, W, 3) uint8, RGB pixels, N at least 1.

        Returns:
            (N, classes) float32, a fresh array.

        Raises:
            ValueError: a batch of another shape or dtype, or the session is closed.
            Refused: Core ML failed.
        """
        if self._model is None:
            raise ValueError("the session is closed")
        taken = self._package.input
        expected = (taken.height, taken.width, 3)
        if batch.dtype != np.uint8 or batch.shape[1:] != expected or not len(batch):
            raise ValueError(f"a batch of {batch.dtype} {batch.shape}, the package takes uint8 {('N', *expected)}")
        size = max(taken.least, min(taken.most, len(batch)))
        rows: list[FloatArray] = []
        for start in range(0, len(batch), size):
            piece = batch[start : start + size]
            filled = np.zeros((max(taken.least, len(piece)), *expected), np.uint8)
            filled[: len(piece)] = piece
            rows.append(self._rows(filled)[: len(piece)])
        return np.concatenate(rows)

    def close(self) -> None:
        """Frees the model. Calling it twice is allowed."""
        self._model = None

    def _rows(self, pixels: ByteArray) -> FloatArray:
        from PIL import Image

        package = self._package
        given = Image.fromarray(pixels[0]) if package.input.image else pixels.astype(np.float32)
        try:
            found = self._model.predict({package.input.name: given})
            if not package.labels:
                return np.array(found[package.result], np.float32).reshape(len(pixels), -1)
            shares = {str(label): share for label, share in found[package.result].items()}
            return np.array([[shares[label] for label in package.labels]], np.float32)
        except Exception as err:  # coremltools raises bare ones
            raise Refused(f"Core ML cannot run `{self._path}`: {_line(err)}", hint="export the file again") from err


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
            raise Refused(f"Core ML cannot open `{path}`: {_line(err)}", hint="export the file again") from err
    # What Core ML says against a package comes as a warning, and a model that cannot predict.
    failed = [warning for warning in caught if issubclass(warning.category, RuntimeWarning)]
    if failed:
        raise Refused(f"Core ML cannot open `{path}`: {_line(failed[0].message)}", hint="export the file again")
    return model


def _preferred(model: Any, path: Path, units: str) -> Counter[str]:
    """How many operators Core ML prefers to run on which device, the most first; constants run nowhere."""
    tools = _coremltools()
    try:
        plan = tools.models.compute_plan.MLComputePlan.load_from_path(
            model.get_compiled_model_path(), compute_units=tools.ComputeUnit[units]
        )
        operations = plan.model_structure.program.functions["main"].block.operations
        usages = [plan.get_compute_device_usage_for_mlprogram_operation(operation) for operation in operations]
    except Exception as err:  # coremltools raises bare ones
        raise Unavailable(f"Core ML does not tell where it runs `{path}`: {_line(err)}", hint=_OLDEST) from err
    names = [type(usage.preferred_compute_device).__name__ for usage in usages if usage is not None]
    return Counter(dict(Counter(_DEVICES.get(name, name) for name in names).most_common()))


def _line(reason: object) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__
