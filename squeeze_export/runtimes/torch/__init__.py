"""torch on the CPU or an NVIDIA GPU: the float baseline that GPU runtimes are compared with.

The file itself is run, operator by operator, in channels-last memory. On a GPU the whole network is captured once for each batch
size as a CUDA graph, so that an inference costs one launch, and float32 means float32: TF32 is off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray, Placement, place, require
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.torch.operators import Network, placed, read_network

NAME = "torch"
MAX_GRAPHS = 4
"""CUDA graphs kept at once: one for each batch size, and each holds the memory of all its tensors."""
WARMUP_COUNT = 3
"""Runs before a capture: cuDNN picks its algorithms in them."""
_INSTALL = "a build of torch with CUDA: https://pytorch.org/get-started/locally/"


def devices() -> tuple[str, ...]:
    """`cpu`, and `cuda` where torch finds a GPU that it was built for.

    Raises:
        Unavailable: `torch` is not installed.
    """
    return ("cpu", "cuda") if _torch().cuda.is_available() else ("cpu",)


def open_session(artifact: Artifact, *, device: str, threads: int) -> TorchSession:
    """Opens a float ONNX file on a device.

    Args:
        artifact: of the target `onnx`, fp32 or fp16.
        device: one of `devices()`.
        threads: on the CPU; torch has one number for the whole process, so of sessions of different numbers the last one's counts.

    Raises:
        BadInput: `threads` is below 1, or the file cannot be read.
        Unavailable: no such device, or `torch` is not installed.
        Refused: it is no float file of an image classifier.
    """
    if threads < 1:
        raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")
    check_device(device)
    try:
        content = artifact.path.read_bytes()
    except OSError as err:
        raise BadInput(f"`{artifact.path}` cannot be read: {err.strerror or err}") from err
    return TorchSession(read_network(content, artifact.path, device), artifact, device, threads)


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    present = devices()
    if device not in present:
        hint = _INSTALL if device == "cuda" else f"it has: {', '.join(present)}"
        raise Unavailable(f"torch has no device `{device}` here", hint=hint)


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """torch opens float files, and inner values are asked of integer ones.

    Raises:
        Refused: always.
    """
    raise Refused(f"torch does not open `{artifact.path}`: it runs float files", hint="--runtime onnxruntime")


class TorchSession:
    """A float ONNX file opened in torch; satisfies `core.Session`. Not to be used by two threads at once.

    Attributes:
        runtime: `torch`.
        device: where the weights are, as torch says.
        threads: on the CPU, as torch says; 1 on a GPU.
        kernels: `ATen`, on a GPU with the versions of CUDA and cuDNN.
        placement: the file's operators, all of them in floating point.
        facts: on a GPU its name.
    """

    runtime = NAME
    evidence: Evidence = "measured"

    def __init__(self, network: Network, artifact: Artifact, device: str, threads: int) -> None:
        torch = _torch()
        self._network: Network | None = network
        self._path = artifact.path
        self.device = torch.zeros(1, device=device).device.type
        self._graphs: dict[int, tuple[Any, Any, Any]] = {}
        self.facts: Mapping[str, Any] = MappingProxyType({})
        if self.device == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            self.threads, self.kernels = 1, f"ATen, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, CUDA graph"
            self.facts = {"gpu": torch.cuda.get_device_name()}
        else:
            torch.set_num_threads(threads)
            self.threads, self.kernels = torch.get_num_threads(), "ATen"
        floats = scheme_named(artifact.scheme).floats
        self.placement: Placement = place(
            self._operators(), floats=floats, source="the file's operators, which torch runs one by one"
        )

    def infer(self, batch: ByteArray) -> FloatArray:
        """Runs a batch, in pieces where the file's own batch size is fixed; the last piece is filled up with zeros.

        Args:
            batch: (N, H, W, 3) uint8, RGB pixels, N at least 1.

        Returns:
            (N, classes) float32, a fresh array.

        Raises:
            ValueError: a batch of another shape or dtype, or the session is closed.
        """
        network = self._open()
        if batch.dtype != np.uint8 or batch.shape[1:] != network.sides or not len(batch):
            raise ValueError(f"a batch of {batch.dtype} {batch.shape}, the file takes uint8 {('N', *network.sides)}")
        size = network.batch or len(batch)
        pieces = []
        for start in range(0, len(batch), size):
            piece = np.zeros((size, *network.sides), network.dtype)
            piece[: len(batch) - start] = batch[start : start + size]
            pieces.append(self._run(piece))
        return np.concatenate(pieces)[: len(batch)]

    def close(self) -> None:
        """Frees the weights, and the GPU's graphs. Calling it twice is allowed."""
        self._network = None
        self._graphs.clear()

    def _open(self) -> Network:
        if self._network is None:
            raise ValueError("the session is closed")
        return self._network

    def _run(self, pixels: Any) -> FloatArray:
        torch = _torch()
        given = torch.from_numpy(pixels)
        with torch.inference_mode():
            if self.device != "cuda":
                return np.array(self._open().run(given).numpy(), np.float32)
            source, graph, result = self.graph_of(len(pixels))
            source.copy_(given)
            graph.replay()
            return np.array(result.cpu().numpy(), np.float32)

    def graph_of(self, size: int) -> tuple[Any, Any, Any]:
        """The CUDA graph of a batch size: its input tensor, the graph, its output tensor. Captured when first asked for."""
        if size not in self._graphs:
            torch, network = _torch(), self._open()
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

    def _operators(self) -> Any:
        """What ran, with its multiply-accumulates for the file's batch, from one run on zeros."""
        torch, network = _torch(), self._open()
        made: dict[str, Any] = {
            network.input: torch.zeros(
                (network.batch or 1, *network.sides), dtype=getattr(torch, network.dtype), device=self.device
            )
        }
        with torch.inference_mode():
            for step in network.steps:
                made[step.output] = step.run(*(made[name] for name in step.inputs))
        return placed(network, made)


def _torch() -> Any:
    return require("torch", "torch")
