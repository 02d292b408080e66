"""The types that every room shares. Frozen, plain, and free of any framework.

A job is one way through them: checkpoint -> graph -> quantized graph -> `Artifact` -> `Session` -> `Measurement` -> `Report`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.errors import Unavailable

FloatArray: TypeAlias = NDArray[np.float32]
ByteArray: TypeAlias = NDArray[np.uint8]

ChannelOrder = Literal["rgb", "bgr"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Evidence = Literal["measured", "emulated", "simulated", "estimated"]
Status = Literal["ok", "skipped", "failed"]
Dimension = int | str


def require(module: str, extra: str) -> Any:
    """Imports a framework at the point of use.

    Args:
        module: dotted module name, such as `onnxruntime`.
        extra: the extra of this package that brings it, such as `onnx`.

    Raises:
        Unavailable: the module is not installed; the hint names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise Unavailable(f"`{module}` is not installed ({err})", hint=f"pip install 'squeeze-export[{extra}]'") from err


@dataclass(frozen=True)
class Preprocess:
    """How a decoded photograph becomes the network's input. Belongs to the checkpoint, travels inside every artifact.

    Attributes:
        resize_px: the short side after resizing.
        crop_px: side of the centre crop: the network's input height and width.
        interpolation: the resampling filter.
        channel_order: the order in which the *network* expects its channels. Pixels are always handed over as RGB.
        mean: per channel, in pixel units (0 to 255), in `channel_order`.
        std: per channel, in pixel units, in `channel_order`, above 0.
    """

    resize_px: int
    crop_px: int
    interpolation: Interpolation
    channel_order: ChannelOrder
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


TORCHVISION = Preprocess(256, 224, "bilinear", "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = Preprocess(256, 227, "bilinear", "bgr", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph or artifact.

    Attributes:
        name: the tensor's name in the file.
        shape: ints, or a string for a symbolic dimension (`"N"`).
        dtype: numpy's name: `uint8`, `float32`.
        layout: `NHWC`, `NCHW` or `NC`.
        scale: real value of one step, where the tensor is quantized.
        zero_point: the integer that stands for 0.
    """

    name: str
    shape: tuple[Dimension, ...]
    dtype: str
    layout: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class EmitOptions:
    """What the user may choose about a file's outer form; the integers inside never change with it.

    Attributes:
        batch: images per inference, or `"dynamic"`.
        input_dtype: `uint8`, or `float32` with the same values 0 to 255.
        softmax: probabilities instead of logits.
    """

    batch: int | Literal["dynamic"] = 1
    input_dtype: Literal["uint8", "float32"] = "uint8"
    softmax: bool = False


@dataclass(frozen=True)
class Audit:
    """What is really inside a file, read back from the file itself.

    Attributes:
        operators: operator type -> count.
        float_operators: `type name` of every operator that computes in floating point.
        float_tensors: `name dtype[shape]` of every tensor stored or computed in floating point.
        violations: why the file is not the integer network it claims to be; empty is a pass.
        weight_bytes: bytes of constant data, by dtype.
    """

    operators: Mapping[str, int]
    float_operators: tuple[str, ...]
    float_tensors: tuple[str, ...]
    violations: tuple[str, ...]
    weight_bytes: Mapping[str, int]


@dataclass(frozen=True)
class Artifact:
    """One exported file (or folder) and where it came from.

    Attributes:
        path: the file.
        target: `onnx`, `tflite` ...
        scheme: `fp32`, `fp16`, `int8` ...
        sha256: of the file's bytes.
        size_bytes: of the file.
        input: what `Session.infer` takes.
        output: what it gives.
        provenance: checkpoint hash, table hash, recipe, seed, tool versions ...
    """

    path: Path
    target: str
    scheme: str
    sha256: str
    size_bytes: int
    input: TensorSpec
    output: TensorSpec
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Placement:
    """Where the operators ran, from the runtime's own records.

    Attributes:
        operator_count: operators the runtime executes after its own fusions.
        integer_count: those that compute in integers.
        integer_mac_share: share (0 to 1) of multiply-accumulates done in integers.
        float_operators: the names of those that compute in floating point.
        source: which record of the runtime this was read from.
    """

    operator_count: int
    integer_count: int
    integer_mac_share: float
    float_operators: tuple[str, ...]
    source: str


class Session(Protocol):
    """An artifact opened on a device.

    Attributes:
        runtime: the registry's name, such as `onnxruntime`.
        device: the device that the runtime says it uses.
        threads: intra-op threads.
        kernels: the kernel family that the runtime says it uses, such as `XNNPACK`.
        placement: where the operators run.
    """

    runtime: str
    device: str
    threads: int
    kernels: str
    placement: Placement

    def infer(self, batch: ByteArray) -> FloatArray:
        """Runs a batch.

        Args:
            batch: (N, H, W, 3) uint8, RGB pixels.

        Returns:
            (N, classes) float32, a fresh array that survives the next call.
        """

    def close(self) -> None:
        """Frees what the runtime holds. Calling it twice is allowed."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval (95% unless its field says otherwise)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """An artifact compared with the fp32 reference on the same decoded pixels.

    Attributes:
        count: images compared.
        top1_agreement: share of images whose top-1 class equals the reference's, with a Wilson interval.
        top5_agreement: mean overlap of the two top-5 sets, 0 to 1.
        sqnr_db: 10 log10(sum of squared reference logits / sum of squared differences), dB.
        kl: mean Kullback-Leibler divergence of the softmax outputs, reference to artifact, nats.
        labelled_count: images that carried a label (0: the fields below are None).
        top1: share right, 0 to 1.
        top5: share with the label among the best five.
        reference_top1: the same of the reference.
        reference_top5: the same of the reference.
        top1_delta_pp: top-1 of the artifact minus the reference's, percentage points, with its paired interval.
        lost: images that the reference had right and the artifact has wrong.
        won: the other way round.
    """

    count: int
    top1_agreement: Interval
    top5_agreement: float
    sqnr_db: float
    kl: float
    labelled_count: int = 0
    top1: float | None = None
    top5: float | None = None
    reference_top1: float | None = None
    reference_top5: float | None = None
    top1_delta_pp: Interval | None = None
    lost: int | None = None
    won: int | None = None


@dataclass(frozen=True)
class Latency:
    """Kept samples of one session, and what follows from them.

    Attributes:
        samples_ns: every timed inference, in the order it ran.
        warmup_count: inferences before the first sample.
        batch: images per inference.
        threads: intra-op threads.
        p50_ms: percentiles over `samples_ns`.
        p90_ms: likewise.
        p99_ms: likewise.
        speedup: fp32's p50 over this p50 on the same runtime and device in the same rounds, with a bootstrap interval.
    """

    samples_ns: tuple[int, ...]
    warmup_count: int
    batch: int
    threads: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    speedup: Interval | None = None


@dataclass(frozen=True)
class Measurement:
    """One row of the report.

    Attributes:
        target: file format.
        scheme: how numbers are carried.
        artifact: file name, relative to the report.
        sha256: of the artifact.
        size_bytes: of the artifact.
        runtime: what ran it.
        device_asked: what the user named.
        device: what the runtime says it used; empty where nothing ran.
        kernels: kernel family that the runtime says it used.
        evidence: how the figures came about.
        status: `ok`, `skipped` or `failed`.
        reason: why it was skipped or failed.
        accuracy: None where not validated.
        latency: None where not timed.
        placement: None where nothing ran.
        audit: what is inside the file.
    """

    target: str
    scheme: str
    artifact: str
    sha256: str
    size_bytes: int
    runtime: str = ""
    device_asked: str = "cpu"
    device: str = ""
    kernels: str = ""
    evidence: Evidence = "measured"
    status: Status = "ok"
    reason: str = ""
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    placement: Placement | None = None
    audit: Audit | None = None


@dataclass(frozen=True)
class Report:
    """Everything one command found out. `report.json` is this; every other form is written from it.

    Attributes:
        schema_version: of the JSON form; older files are migrated on reading.
        created: UTC, ISO 8601.
        tool_versions: package -> version.
        host: machine facts: CPU, cores, ISA flags, governor, memory, OS.
        network: name, classes, input size, parameters, checkpoint hash.
        calibration: image count, source, recipe, table hash; empty where nothing was calibrated.
        evaluation: image count, source, whether labelled, and a note where the images are not independent.
        measurements: the rows.
        warnings: what the user was told on the way.
    """

    schema_version: int
    created: str
    tool_versions: Mapping[str, str]
    host: Mapping[str, Any]
    network: Mapping[str, Any]
    calibration: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...] = ()


class Progress(Protocol):
    """What a long job tells of its advance; the command line draws it, a library user may ignore it."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """`done` of `total` steps of `what` are finished."""


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that says nothing."""
