"""torch on the CPU or an NVIDIA GPU: the float baseline that GPU runtimes are compared with.

It runs the file itself, operator by operator, in channels-last memory. On a GPU the whole network is captured as a CUDA graph once
for each batch size, so that an inference costs one launch; TF32 is off, so that float32 means float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import CHANNEL_COUNTS, Artifact, ByteArray, FloatArray, PlacedOperator, place, require
from squeeze_export.errors import BadInput, Refused
from squeeze_export.files import read_bounded
from squeeze_export.formats.contents import FREE
from squeeze_export.formats.onnx import MAX_BYTES, OnnxFile, checked, node_name
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.graph.torch_network import convolve, padded
from squeeze_export.runtimes.session import BatchSession, check_present, check_threads

NAME = "torch"
DEVICE_NAMES = ("cpu", "cuda")
MAX_GRAPHS = 4
"""CUDA graphs kept at once: one for each batch size; each holds the memory of all its tensors."""
WARMUP_COUNT = 3
"""Runs before a capture, in which cuDNN picks its algorithms."""
_HINT = "torch runs float files: `--scheme fp32` or `fp16`"
_INSTALL = "a build of torch with CUDA: https://pytorch.org/get-started/locally/"


def devices() -> tuple[str, ...]:
    """`cpu`, and `cuda` if torch finds a GPU that it was built for; see `Runtime.devices`."""
    return ("cpu", "cuda") if _torch().cuda.is_available() else ("cpu",)


def open_session(artifact: Artifact, *, device: str, threads: int) -> TorchSession:
    """Opens a float ONNX file on a device; see `Runtime.open_session`. torch has one number of threads for the whole process: the
    last session's counts.
    """
    check_threads(threads)
    check_device(device)
    return TorchSession(_read_network(artifact.path, device), artifact, device, threads)


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    check_present(device, devices(), "torch", _INSTALL if device == "cuda" else "")


@dataclass(frozen=True)
class _Step:
    """An operator of the file, the names of the tensors that it takes and makes, and the function that computes it."""

    operator: PlacedOperator
    inputs: tuple[str, ...]
    output: str
    run: Callable[..., Any]


@dataclass(frozen=True)
class _Network:
    """A file, ready to run.

    Attributes:
        steps: in order.
        input: name of the input.
        output: name of the logits.
        batch: images of an inference; None if it is free.
        sides: (H, W, C).
        dtype: of the input, as torch calls it.
    """

    steps: tuple[_Step, ...]
    input: str
    output: str
    batch: int | None
    sides: tuple[int, ...]
    dtype: str

    def run(self, pixels: Any) -> Any:
        """Logits (N, classes) float32 of a tensor (N, H, W, 3)."""
        values = {self.input: pixels}
        for step in self.steps:
            values[step.output] = step.run(*(values[name] for name in step.inputs))
        return values[self.output]


class TorchSession(BatchSession):
    """A float ONNX file opened in torch. Not to be used by two threads at once.

    Attributes:
        device: where the weights are, as torch says.
        threads: on the CPU, as torch says; 1 on a GPU.
        kernels: `ATen`, on a GPU with the versions of CUDA and cuDNN.
        placement: the file's operators, all of them in floating point.
        facts: `gpu`: the GPU's name.
    """

    runtime = NAME

    def __init__(self, network: _Network, artifact: Artifact, device: str, threads: int) -> None:
        super().__init__(network.sides, least=network.batch or 1, most=network.batch)
        torch = _torch()
        self._network = network
        self.device = torch.zeros(1, device=device).device.type
        self._graphs: dict[int, tuple[Any, Any, Any]] = {}
        if self.device == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            self.threads, self.kernels = 1, f"ATen, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, CUDA graph"
            self.facts = {"gpu": torch.cuda.get_device_name()}
        else:
            torch.set_num_threads(threads)
            self.threads, self.kernels = torch.get_num_threads(), "ATen"
        operators = [step.operator for step in network.steps]
        floats = scheme_named(artifact.scheme).floats
        self.placement = place(operators, floats=floats, source="the file's operators, which torch runs one by one")

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        torch = _torch()
        given = torch.from_numpy(images.astype(self._network.dtype))  # a copy, which may be written
        with torch.inference_mode():
            if self.device != "cuda":
                return np.asarray(self._network.run(given).numpy())
            source, graph, result = self.graph_of(len(images))
            source.copy_(given)
            graph.replay()
            return np.asarray(result.cpu().numpy())

    def free(self) -> None:
        """Frees the weights, and the GPU's graphs."""
        del self._network
        self._graphs.clear()

    def graph_of(self, size: int) -> tuple[Any, Any, Any]:
        """The CUDA graph of a batch size, captured when first asked for: its input tensor, the graph, its output tensor."""
        if size not in self._graphs:
            torch, network = _torch(), self._network
            if len(self._graphs) >= MAX_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            source = torch.zeros((size, *network.sides), dtype=getattr(torch, network.dtype), device="cuda")
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.inference_mode(), torch.cuda.stream(side):
                for _ in range(WARMUP_COUNT):
                    network.run(source)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.inference_mode(), torch.cuda.graph(graph):
                result = network.run(source)
            self._graphs[size] = (source, graph, result)
        return self._graphs[size]


def _read_network(path: Path, device: str) -> _Network:
    """Reads a file and moves its weights to a device.

    Raises:
        BadInput: it cannot be read, or is too large.
        Refused: it is not a sound ONNX file, has an operator that our float files do not have, or is not an image classifier.
        Unavailable: `onnx` or `torch` is not installed.
    """
    torch, content = _torch(), read_bounded(path, MAX_BYTES, "an ONNX file")
    try:
        file = checked(content, path)
    except BadInput as err:
        raise Refused(f"torch cannot open it: {err.message}", hint="export the file again") from err
    constants = {name: torch.from_numpy(file.array(name).copy()).to(device) for name in file.stored}
    steps = tuple(_step(file, node, constants, path) for node in file.graph.node)
    (source, *others), (result, *_) = file.contents.inputs, file.contents.outputs
    batch, *sides = source.shape or (FREE,)
    if others or len(sides) != 3 or FREE in sides or sides[2] not in CHANNEL_COUNTS or source.dtype not in ("uint8", "float32"):
        raise Refused(f"`{path}` does not take one NHWC tensor of uint8 or float32", hint="open files that this tool wrote")
    return _Network(steps, source.name, result.name, None if batch == FREE else batch, tuple(sides), source.dtype)


def _step(file: OnnxFile, node: Any, constants: Mapping[str, Any], path: Path) -> _Step:
    attributes = file.attributes(node)
    fixed = [constants[name] for name in node.input if name in constants]
    run = _function(file, node.op_type, attributes, fixed) if node.domain in ("", "ai.onnx") else None
    if run is None:
        raise Refused(f"torch cannot open `{path}`: `{node.op_type}` is no operator of a float file", hint=_HINT)
    made = math.prod(1 if side == FREE else side for side in file.tensor(node.output[0]).shape)
    macs = made * math.prod(fixed[0].shape[1:]) if node.op_type == "Conv" else 0
    flowing = tuple(name for name in node.input if name not in constants)
    return _Step(PlacedOperator(f"{node.op_type} {node_name(node)}", False, macs), flowing, node.output[0], run)


def _function(file: OnnxFile, kind: str, attributes: Mapping[str, Any], fixed: list[Any]) -> Callable[..., Any] | None:
    """What an operator does to its operands, in channels-last memory; None for an operator that our float files do not have."""
    torch = _torch()
    stride, pads = tuple(attributes.get("strides", (1, 1))), tuple(attributes.get("pads", (0, 0, 0, 0)))
    match kind:
        case "Transpose":
            return lambda x: x.permute(tuple(attributes["perm"]))  # NHWC seen as NCHW is channels-last memory already
        case "Cast":
            dtype = getattr(torch, file.dtype(attributes["to"]))
            return lambda x: x.to(dtype)
        case "Conv":
            weight, bias = fixed[0].contiguous(memory_format=torch.channels_last), fixed[1] if len(fixed) > 1 else None
            return lambda x: convolve(x, weight, bias, stride, pads)
        case "MaxPool":
            kernel = tuple(attributes["kernel_shape"])
            return lambda x: torch.nn.functional.max_pool2d(padded(x, pads, -math.inf), kernel, stride)
        case "Relu":
            return lambda x: x.relu()
        case "Concat":
            return lambda *parts: torch.cat(parts, attributes["axis"])
        case "Add":
            return lambda x, y: x + y
        case "GlobalAveragePool":
            return lambda x: x.mean((2, 3), keepdim=True)
        case "Flatten":
            return lambda x: x.flatten(attributes.get("axis", 1))
        case "Sigmoid":
            return lambda x: x.sigmoid()
        case "Softmax":
            return lambda x: x.softmax(attributes.get("axis", -1))
    return None


def _torch() -> Any:
    return require("torch", "torch")
