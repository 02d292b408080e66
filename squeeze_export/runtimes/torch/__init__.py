"""torch on the CPU or an NVIDIA GPU: the float baseline that GPU runtimes are compared with.

The file itself is run, operator by operator, in channels-last memory. On a GPU the whole network is captured once for each batch
size as a CUDA graph, so that an inference costs one launch, and float32 means float32: TF32 is off.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, FloatArray, place, require
from squeeze_export.errors import Unavailable
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.session import BatchSession, check_threads
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
    check_threads(threads)
    check_device(device)
    return TorchSession(read_network(artifact.path, device), artifact, device, threads)


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    present = devices()
    if device not in present:
        hint = _INSTALL if device == "cuda" else f"it has: {', '.join(present)}"
        raise Unavailable(f"torch has no device `{device}` here", hint=hint)


class TorchSession(BatchSession):
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

    def __init__(self, network: Network, artifact: Artifact, device: str, threads: int) -> None:
        super().__init__(network.sides, least=network.batch or 1, most=network.batch)
        torch = _torch()
        self._network: Network | None = network
        self._path = artifact.path
        self.device = torch.zeros(1, device=device).device.type
        self._graphs: dict[int, tuple[Any, Any, Any]] = {}
        if self.device == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            self.threads, self.kernels = 1, f"ATen, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, CUDA graph"
            self.facts = {"gpu": torch.cuda.get_device_name()}
        else:
            torch.set_num_threads(threads)
            self.threads, self.kernels = torch.get_num_threads(), "ATen"
        floats = scheme_named(artifact.scheme).floats
        self.placement = place(self._operators(), floats=floats, source="the file's operators, which torch runs one by one")

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        torch = _torch()
        given = torch.from_numpy(images.astype(self._open().dtype))  # a copy, which may be written
        with torch.inference_mode():
            if self.device != "cuda":
                return np.asarray(self._open().run(given).numpy())
            source, graph, result = self.graph_of(len(images))
            source.copy_(given)
            graph.replay()
            return np.asarray(result.cpu().numpy())

    def free(self) -> None:
        """Frees the weights, and the GPU's graphs."""
        self._network = None
        self._graphs.clear()

    def _open(self) -> Network:
        if self._network is None:
            raise ValueError("the session is closed")
        return self._network

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
