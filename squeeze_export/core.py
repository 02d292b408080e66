"""The types that every room shares. Frozen, plain, and free of any framework.

A job is one way through them: checkpoint -> graph -> quantized graph -> `Artifact` -> `Session` -> `Measurement` -> `Report`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.errors import NotInstalled, Refused, Unavailable

FloatArray: TypeAlias = NDArray[np.float32]
ByteArray: TypeAlias = NDArray[np.uint8]

ChannelOrder = Literal["rgb", "bgr", "gray"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
ResizeMode = Literal["short-side", "stretch"]
Evidence = Literal["measured", "emulated", "simulated", "estimated"]
Dimension = int | str


_SWITCHES: Mapping[str, str] = {"onnxruntime": "ORT_DISABLE_TELEMETRY"}
"""Package -> the environment variable that switches its telemetry off. ONNX Runtime starts with it on import."""


def require(module: str, extra: str, *, without: tuple[str, ...] = ()) -> Any:
    """Imports a framework at the point of use.

    Args:
        module: dotted module name, such as `onnxruntime`.
        extra: the extra of this package that installs it, such as `onnx`.
        without: optional packages that it would import, which takes seconds. They are hidden during its first import, unless
            they are loaded already.

    Raises:
        NotInstalled: the module is not installed; the hint names the extra.
        Unavailable: it is there, and something that it imports is not.
        Refused: the module is installed, but its import fails.
    """
    switch = _SWITCHES.get(module.partition(".")[0])
    if switch is not None:
        os.environ.setdefault(switch, "1")
    hidden = [name for name in without if name not in sys.modules] if module not in sys.modules else []
    try:
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python spells "not to be imported"
        return importlib.import_module(module)
    except ImportError as err:
        absent = isinstance(err, ModuleNotFoundError) and err.name == module.partition(".")[0]
        kind = NotInstalled if absent else Unavailable
        raise kind(f"`{module}` is not installed ({err})", hint=f"pip install 'squeeze-export[{extra}]'") from err
    except Exception as err:  # a broken toolchain may raise anything
        raise Refused(
            f"`{module}` breaks when it is imported: {type(err).__name__}: {err}", hint=f"reinstall it: squeeze-export[{extra}]"
        ) from err
    finally:
        for name in hidden:
            if sys.modules.get(name, ...) is None:
                del sys.modules[name]


@dataclass(frozen=True)
class Preprocess:
    """How a decoded photograph becomes the network's input. Belongs to the checkpoint, travels inside every artifact.

    Attributes:
        resize_px: the short side after resizing; with `stretch` the height.
        crop_px: height of the centre crop: the network's input height.
        interpolation: the resampling filter.
        channel_order: the order in which the *network* expects its channels, or `gray` for one channel. Callers always pass RGB
            or grey pixels.
        mean: per channel, in pixel units (0 to 255), in `channel_order`.
        std: per channel, in pixel units, in `channel_order`, above 0.
        width_px: width of the centre crop: the network's input width. None for a square.
        resize_mode: `short-side` keeps the picture's ratio; `stretch` gives the whole picture the crop's.
    """

    resize_px: int
    crop_px: int
    interpolation: Interpolation
    channel_order: ChannelOrder
    mean: tuple[float, ...]
    std: tuple[float, ...]
    width_px: int | None = None
    resize_mode: ResizeMode = "short-side"

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input."""
        width_px = self.crop_px if self.width_px is None else self.width_px
        return self.crop_px, width_px, 1 if self.channel_order == "gray" else 3

    @property
    def size_text(self) -> str:
        """The network's input size in pixels, for people: `224`, or height and width as `96 x 128`."""
        return f"{self.crop_px}" if self.width_px is None else f"{self.crop_px} x {self.width_px}"

    @property
    def mean_rgb(self) -> tuple[float, ...]:
        """`mean` in the order of the pixels."""
        return self.mean[::-1] if self.channel_order == "bgr" else self.mean

    def to_json(self) -> dict[str, Any]:
        """The fields, as files keep them. Those of later versions are left out where they have the value that was meant before."""
        values = asdict(self)
        for name in ("width_px", "resize_mode"):
            if values[name] == getattr(Preprocess, name):
                del values[name]
        return values


CHANNEL_COUNTS = (1, 3)
"""Channels that an image may have: grey, or RGB."""

TORCHVISION = Preprocess(256, 224, "bilinear", "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = Preprocess(256, 227, "bilinear", "bgr", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Assumption:
    """Something about the network that its file does not tell and that nobody else told either.

    Attributes:
        subject: what it is about, in a word or two: `conv1 padding`, `mean`.
        value: what was assumed, so that it reads by itself: `conv1 pad 0`, `mean 123.675,116.28,103.53`.
        why: where the value comes from: `torchvision's SqueezeNet 1.1`.
    """

    subject: str
    value: str
    why: str


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


Ending = Literal["logits", "softmax", "log-softmax", "sigmoid"]
OUTPUT_NAMES: Mapping[Ending, str] = {"logits": "logits", "softmax": "probabilities", "sigmoid": "scores"}
"""What a file's output is -> the name of its tensor in a file of ours."""


@dataclass(frozen=True)
class EmitOptions:
    """What the user may choose about a file's inputs and outputs; the integers inside stay the same.

    Attributes:
        batch: images per inference, or `"dynamic"`.
        input_dtype: `uint8`; `float32` with the same values 0 to 255; or `int8` with values 128 lower, in TFLite files alone.
        softmax: probabilities instead of logits.
        sigmoid: one probability for each class by itself instead of logits. A file has at most one of the two.
        ios: Core ML only: the oldest iOS that can run the file.
        coreml_compute: Core ML only: the type of the numbers between the integers of an int8 file. The Neural Engine takes only
            float16; float32 stays closer to the integer run.
        coreai_form: Core AI only: how an int8 file is written: `exact` gives the integers of the integer run in every layer, `qdq`
            is the usual pairs of quantize and dequantize.
        coreai_compute: Core AI only: the type of the numbers between the integers of an int8 file, and of a w8 file. The exact form
            needs float32; the Neural Engine takes only float16.
    """

    batch: int | Literal["dynamic"] = 1
    input_dtype: Literal["uint8", "float32", "int8"] = "uint8"
    softmax: bool = False
    sigmoid: bool = False
    ios: Literal[17, 18] = 17
    coreml_compute: Literal["float32", "float16"] = "float32"
    coreai_form: Literal["exact", "qdq"] = "exact"
    coreai_compute: Literal["float32", "float16"] = "float32"

    @property
    def ending(self) -> Ending:
        """What the file gives."""
        return "softmax" if self.softmax else "sigmoid" if self.sigmoid else "logits"


@dataclass(frozen=True)
class Audit:
    """What is really inside a file, read back from the file itself.

    Attributes:
        operators: operator type -> count.
        float_operators: `type name` of every operator that computes in floating point.
        float_tensors: `name dtype[shape]` of every tensor stored or computed in floating point.
        violations: why the file is not the integer network that it claims to be; empty if it is one.
        weight_bytes: dtype -> bytes of constant data.
        kept_float: convolutions that compute in float on request, as the file's own metadata says: they are no violations.
        untold: what the file does not show, such as an operator of a library that the reader does not know. Where there are no
            violations and some of these, nobody can tell from the file whether it is an integer network.
    """

    operators: Mapping[str, int]
    float_operators: tuple[str, ...]
    float_tensors: tuple[str, ...]
    violations: tuple[str, ...]
    weight_bytes: Mapping[str, int]
    kept_float: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foreign:
    """How a file of another tool takes images, and what it gives. Layout and dtype are those of the artifact's input.

    Attributes:
        preprocess: of the numbers that the input takes: (pixel - mean) / std, in its channel order. A uint8 input without a scale
            takes the pixels themselves.
        ending: what the output is.
    """

    preprocess: Preprocess
    ending: Ending = "logits"


@dataclass(frozen=True)
class Artifact:
    """One exported file (or folder) and where it came from.

    Attributes:
        path: the file or folder.
        target: `onnx`, `tflite` ...
        scheme: `fp32`, `fp16`, `int8` ...
        sha256: of the file's bytes; of a folder, see `files.content_sha256`.
        size_bytes: of the file, or of all files of the folder.
        input: what `Session.infer` takes.
        output: what it gives.
        provenance: checkpoint hash, table hash, recipe, seed, tool versions ...
        audit: what is inside, as found at its export; None for a compiled file.
        foreign: of a file of another tool; None for one of this tool, which takes pixels as they are.
    """

    path: Path
    target: str
    scheme: str
    sha256: str
    size_bytes: int
    input: TensorSpec
    output: TensorSpec
    provenance: Mapping[str, Any] = field(default_factory=dict)
    audit: Audit | None = None
    foreign: Foreign | None = None

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """(N, H, W, C) of the pixels of one inference; N is 1 where the file leaves the batch free."""
        batch, *sides = self.input.shape
        if self.foreign is not None:
            sides = list(self.foreign.preprocess.input_size)
        return (batch if isinstance(batch, int) else 1, *map(int, sides))

    @property
    def ending(self) -> Ending:
        """What the output is."""
        if self.foreign is not None:
            return self.foreign.ending
        return next((ending for ending, name in OUTPUT_NAMES.items() if name == self.output.name), "logits")

    @property
    def gives_probabilities(self) -> bool:
        """Whether the output is probabilities, not logits."""
        return self.ending != "logits"


@dataclass(frozen=True)
class PlacedOperator:
    """An operator that a runtime executes, after its own fusions.

    Attributes:
        name: `type name`.
        integer: whether it computes in integers.
        macs: its multiply-accumulates; 0 if it has none.
        elsewhere: the device that it runs on, if that is not the requested one; else empty.
    """

    name: str
    integer: bool
    macs: int = 0
    elsewhere: str = ""


@dataclass(frozen=True)
class Placement:
    """Where the operators ran, and in what numbers, from the runtime's own records.

    Attributes:
        operator_count: operators the runtime executes after its own fusions.
        integer_count: those that compute in integers on the requested device.
        integer_mac_share: share (0 to 1) of the multiply-accumulates that they do.
        float_operators: names of the operators that compute in floating point.
        source: the runtime's record that this was read from.
        device_count: operators on the requested device; None in older reports, which did not count them.
        elsewhere: `type name on device` of the others.
        fallbacks: operators that should run on the requested device in integers, and do not.
    """

    operator_count: int
    integer_count: int
    integer_mac_share: float
    float_operators: tuple[str, ...]
    source: str
    device_count: int | None = None
    elsewhere: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()


FloatPart = Literal["all", "around the convolutions", "none"]
"""Which operators of a file are meant to compute in floating point: in a float file all; in an `int8` file those before its first
and after its last convolution, mainly the average pool.
"""


def place(operators: Sequence[PlacedOperator], *, floats: FloatPart, source: str, mac_count: int | None = None) -> Placement:
    """Sums up where operators ran.

    Args:
        operators: in the order in which they run.
        floats: which ones are meant to compute in floating point; any other float operator is a fallback.
        source: the record that they were read from.
        mac_count: multiply-accumulates of the whole file, if the operators do not account for all of them.
    """
    whole = sum(operator.macs for operator in operators) if mac_count is None else mac_count
    convolutions = [index for index, operator in enumerate(operators) if operator.macs]
    # Without a convolution in the record nothing is known to be before or after one, so no float operator is accepted.
    inner = range(min(convolutions), max(convolutions) + 1) if convolutions else range(len(operators))
    meant = {"all": range(0), "around the convolutions": inner, "none": range(len(operators))}[floats]
    placed = [operator for operator in operators if operator.integer and not operator.elsewhere]
    elsewhere = [operator for operator in operators if operator.elsewhere]
    fallen = [o for index, o in enumerate(operators) if o.elsewhere or (index in meant and not o.integer)]
    return Placement(
        operator_count=len(operators),
        integer_count=len(placed),
        integer_mac_share=sum(operator.macs for operator in placed) / whole if whole else 0.0,
        float_operators=tuple(operator.name for operator in operators if not operator.integer),
        source=source,
        device_count=len(operators) - len(elsewhere),
        elsewhere=tuple(f"{operator.name} on {operator.elsewhere}" for operator in elsewhere),
        fallbacks=tuple(o.name + (f" on {o.elsewhere}" if o.elsewhere else " in floating point") for o in fallen),
    )


class Progress(Protocol):
    """Is told how far a long job is; the command line draws it, a library user may ignore it."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """`done` of `total` steps of `what` are finished."""


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that says nothing."""


class Clock(Protocol):
    """Times sessions where they run, on a board or in another process, so that the way there does not count."""

    def time(
        self, sessions: Sequence[tuple[Any, ByteArray]], *, warmup: int, rounds: int, progress: Progress = silent
    ) -> list[tuple[int, ...]]:
        """Times sessions, all in the same rounds.

        Args:
            sessions: sessions of this clock, each with its batch, (N, H, W, 3) uint8.
            warmup: inferences of each before the first sample.
            rounds: samples of each, at least 1.
            progress: told of the rounds.

        Returns:
            Samples in ns of each session.

        Raises:
            Unavailable: the connection broke.
            Refused: the runtime failed, or returned too few samples.
        """


class Session(Protocol):
    """An artifact opened on a device. Most runtimes build on `runtimes.session.BatchSession`.

    Attributes:
        runtime: the registry's name, such as `onnxruntime`.
        device: the device that the runtime says it uses.
        threads: intra-op threads.
        kernels: the kernel family that the runtime says it uses, such as `XNNPACK`.
        evidence: `measured`, or `emulated` if the real device is not here.
        facts: what else the runtime reports about the device and this file on it, for the report: `arena_bytes` ...
        gives_logits: False if it can only be timed; `infer` then always raises `Unavailable`.
    """

    runtime: str
    device: str
    threads: int
    kernels: str
    evidence: Evidence
    facts: Mapping[str, Any]
    gives_logits: bool

    @property
    def clock(self) -> Clock | None:
        """What times it; None if `infer` is timed in this process."""

    @property
    def placement(self) -> Placement | None:
        """Where the operators run; None if the runtime does not tell.

        Raises:
            Refused: the runtime's records make no sense, or contradict the request.
        """

    def infer(self, batch: ByteArray) -> FloatArray:
        """Runs a batch.

        Args:
            batch: (N, H, W, 3) uint8, RGB pixels, N at least 1.

        Returns:
            (N, classes) float32, a fresh array that survives the next call.

        Raises:
            ValueError: a batch of another shape or dtype, or the session is closed.
            Refused: the runtime failed.
        """

    def close(self) -> None:
        """Frees what the runtime holds. Calling it twice is allowed."""
