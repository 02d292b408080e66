"""SqueezeNet 1.1 on an NVIDIA GPU: torch, ONNX Runtime's CUDA and TensorRT providers, whatever this machine has, torch alone too.

python -m benchmarks.gpu

Each network stays open with its input and output on the GPU and its launches captured as a CUDA graph, where the runtime has that.
Two times are kept apart: *back to back*, inferences between two synchronisations, tensors staying on the GPU (a runtime that waits
after each of them pays for that); and *end to end*, from pixels in the host's memory to logits there. The weights are drawn from a
seed: values change no time.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recording import write
from squeeze_export.core import TORCHVISION, EmitOptions
from squeeze_export.errors import SqueezeExportError, Unavailable
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.measure.latency import measure_latency
from squeeze_export.nets.architecture import architecture, tensor_shapes
from squeeze_export.pipeline.export import export
from squeeze_export.quant.recipes import quantize

BATCHES = (1, 4, 16, 64, 256)
ROUNDS, WARMUP_COUNT = 50, 10
WINDOWS, WINDOW_S = 5, 0.2
ENERGY_S = 2.0
CALIBRATION_COUNT = 32
SCHEMES = ("fp32", "fp16", "int8", "int8-symmetric")
PROVIDERS: Mapping[str, tuple[str, Mapping[str, str], tuple[str, ...]]] = {
    "ONNX Runtime, CUDA": (
        "CUDAExecutionProvider",
        {"enable_cuda_graph": "1", "use_tf32": "0", "prefer_nhwc": "1"},
        ("fp32", "fp16", "int8"),
    ),
    # INT8 by explicit Q/DQ alone, and symmetric: TensorRT 11 takes no other.
    "ONNX Runtime, TensorRT": ("TensorrtExecutionProvider", {"trt_cuda_graph_enable": "1"}, ("fp32", "fp16", "int8-symmetric")),
}
"""What it is called -> execution provider, its options, the schemes that it is given."""


@dataclass(frozen=True)
class Contestant:
    """A network that is open on the GPU.

    Attributes:
        name: of the runtime.
        scheme: how numbers are carried.
        batch: images an inference.
        launch: starts one inference; tensors stay on the GPU, and it need not have ended.
        synchronise: waits for what was launched.
        end_to_end: pixels (N, H, W, 3) uint8 in, logits (N, classes) float32 out.
    """

    name: str
    scheme: str
    batch: int
    launch: Callable[[], object]
    synchronise: Callable[[], object]
    end_to_end: Callable[[Any], Any]


def main() -> None:
    """Measures every contestant of every batch size, and writes the result.

    Raises:
        Unavailable: no NVIDIA GPU that torch can use.
    """
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # before CUDA is loaded: TensorRT's provider has no option of its own for it
    gpu = gpu_name()
    rows: list[Sequence[str]] = []
    raw: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for batch in BATCHES:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            found = list(contestants(stack, files(Path(folder), batch), batch, missing))
            pixels = np.random.default_rng(1).integers(0, 256, (batch, 224, 224, 3), np.uint8)
            compare(found, pixels)
            for contestant, figures in measured(found, pixels).items():
                rows.append(row(contestant, figures))
                raw.append({"runtime": contestant.name, "scheme": contestant.scheme, "batch": batch, **figures})
                print(" ".join(rows[-1]), file=sys.stderr)
    notes = [f"{gpu}. Back to back: tensors stay on the GPU; end to end: host to host. Images a second from the former."]
    notes += [f"Not there: {name}: {reason}" for name, reason in missing.items()]
    header = ("runtime", "scheme", "batch", "back to back", "end to end", "images a second", "millijoules an image")
    write("gpu", "SqueezeNet 1.1 on an NVIDIA GPU", notes, header, rows, raw)


def gpu_name() -> str:
    """The GPU, by its name.

    Raises:
        Unavailable: torch is not installed, or finds none.
    """
    try:
        import torch
    except ImportError as err:
        raise Unavailable(f"`torch` is not installed ({err})", hint="a build of torch with CUDA") from err
    if not torch.cuda.is_available():
        raise Unavailable("torch finds no NVIDIA GPU on this machine", hint="run this on a machine that has one")
    return str(torch.cuda.get_device_name())


def files(folder: Path, batch: int) -> dict[str, Path]:
    """Scheme -> an ONNX file of SqueezeNet 1.1, untrained, at 224 px and a batch size."""
    draw = np.random.default_rng(0)
    arch = architecture("squeezenet1_1", class_count=1000)
    shapes = tensor_shapes(arch)
    tensors = {
        key: draw.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in shapes.items()
    }
    graph = build_graph(arch, tensors, TORCHVISION)
    pixels = draw.integers(0, 256, (CALIBRATION_COUNT, 224, 224, 3), np.uint8)
    made = {}
    for name in SCHEMES:
        scheme = scheme_named(name)
        network = quantize(graph, pixels, FloatRunner(graph), scheme) if scheme.integer else graph
        made[name] = export(network, "onnx", scheme, folder, name="net", options=EmitOptions(batch))[0].path
    return made


def contestants(stack: ExitStack, made: Mapping[str, Path], batch: int, missing: dict[str, str]) -> Iterator[Contestant]:
    """Opens all that this machine has; `missing` takes what it has not, with the reason."""
    for scheme in ("fp32", "fp16"):
        yield from _tried(f"torch, {scheme}", missing, lambda s=scheme: on_torch(stack, made[s], s, batch))  # type: ignore[misc]
    for name, (provider, options, schemes) in PROVIDERS.items():
        for scheme in schemes:
            yield from _tried(
                f"{name}, {scheme}",
                missing,
                lambda n=name, p=provider, o=options, s=scheme: on_onnxruntime(n, p, o, made[s], s, batch),  # type: ignore[misc]
            )


def _tried(name: str, missing: dict[str, str], make: Callable[[], Contestant]) -> Iterator[Contestant]:
    try:
        made = make()
        made.launch()  # CUDA graphs are captured in the first inference
        made.synchronise()
    except SqueezeExportError as err:
        missing[name] = err.message
    except Exception as err:  # noqa: BLE001 - whatever a GPU's libraries raise, the others go on
        missing[name] = " ".join(str(err).split())[:200] or type(err).__name__
    else:
        yield made


def on_torch(stack: ExitStack, path: Path, scheme: str, batch: int) -> Contestant:
    """The runtime `torch`: channels-last, cuDNN, one CUDA graph, TF32 off."""
    import torch

    from squeeze_export.pipeline.export import read_artifact
    from squeeze_export.runtimes.torch import open_session

    session = open_session(read_artifact(path), device="cuda", threads=1)
    stack.callback(session.close)
    _, graph, _ = session.graph_of(batch)
    return Contestant("torch", scheme, batch, graph.replay, torch.cuda.synchronize, session.infer)


def on_onnxruntime(name: str, provider: str, options: Mapping[str, str], path: Path, scheme: str, batch: int) -> Contestant:
    """ONNX Runtime with one provider, its input and output bound to the GPU's memory.

    Raises:
        Unavailable: it is not installed, or lacks the provider.
    """
    try:
        import onnxruntime
    except ImportError as err:
        raise Unavailable(f"`onnxruntime` is not installed ({err})") from err
    if provider not in onnxruntime.get_available_providers():
        raise Unavailable(f"this onnxruntime has no {provider}", hint="pip install onnxruntime-gpu (in place of onnxruntime)")
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # all of it on the GPU, or not at all
    allowed = {"trt_int8_enable": str(int("int8" in scheme)), "trt_fp16_enable": str(int(scheme == "fp16"))}
    chosen = {**options, **(allowed if provider.startswith("Tensorrt") else {})}
    session = onnxruntime.InferenceSession(path.read_bytes(), settings, providers=[(provider, chosen)], enable_fallback=0)
    if session.get_providers()[0] != provider:
        raise Unavailable(f"{provider} did not start: ONNX Runtime uses {session.get_providers()[0]}")
    source, result = session.get_inputs()[0], session.get_outputs()[0]
    given = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((batch, 224, 224, 3), np.uint8), "cuda", 0)
    made = onnxruntime.OrtValue.ortvalue_from_shape_and_type([batch, 1000], np.float32, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(source.name, given)
    binding.bind_ortvalue_output(result.name, made)

    def end_to_end(pixels: Any) -> Any:
        given.update_inplace(pixels)
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return made.numpy()

    running = onnxruntime.RunOptions()
    running.add_run_config_entry("disable_synchronize_execution_providers", "1")  # else every inference is waited for
    return Contestant(
        name, scheme, batch, lambda: session.run_with_iobinding(binding, running), binding.synchronize_outputs, end_to_end
    )


def compare(found: Sequence[Contestant], pixels: Any) -> None:
    """Ends the run where two do not compute the same network: half of the largest logit apart is no rounding."""
    logits = [contestant.end_to_end(pixels) for contestant in found]
    for contestant, values in zip(found[1:], logits[1:], strict=True):
        apart = float(np.abs(values - logits[0]).max())
        if not apart < 0.5 * float(np.abs(logits[0]).max()):
            sys.exit(f"{contestant.name}, {contestant.scheme}: logits are {apart:.3g} from {found[0].name}'s")


def measured(
    found: Sequence[Contestant], pixels: Any, clock: Callable[[], int] = time.perf_counter_ns
) -> dict[Contestant, dict[str, Any]]:
    """Times all of them in interleaved rounds.

    Args:
        found: of one batch size.
        pixels: (N, H, W, 3) uint8.
        clock: nanoseconds.

    Returns:
        contestant -> `end_to_end_ns`, `gpu_ns` (each window's mean time of an inference), `energy_mj` an image, where NVML tells.
    """
    calls = {str(index): (lambda c=c: c.end_to_end(pixels)) for index, c in enumerate(found)}
    ends = measure_latency(calls, warmup=WARMUP_COUNT, rounds=ROUNDS, clock=clock)
    windows: dict[Contestant, list[float]] = {contestant: [] for contestant in found}
    for _ in range(WINDOWS):
        for contestant in found:
            windows[contestant].append(window_ns(contestant, WINDOW_S, clock)[0])
    return {
        contestant: {
            "end_to_end_ns": list(ends[str(index)]),
            "gpu_ns": windows[contestant],
            "energy_mj": energy_mj(contestant, clock),
        }
        for index, contestant in enumerate(found)
    }


def window_ns(contestant: Contestant, seconds: float, clock: Callable[[], int] = time.perf_counter_ns) -> tuple[float, int]:
    """Mean time of an inference, back to back for a while, in ns; and how many there were."""
    contestant.launch()
    contestant.synchronise()
    start_ns, count = clock(), 0
    while clock() - start_ns < seconds * 1e9:
        for _ in range(10):
            contestant.launch()
        contestant.synchronise()
        count += 10
    return (clock() - start_ns) / count, count


def energy_mj(contestant: Contestant, clock: Callable[[], int] = time.perf_counter_ns) -> float | None:
    """Energy of an image by NVML's counter over a few seconds; None where NVML does not count."""
    with _counter() as read:
        if read is None:
            return None
        before = read()
        _, count = window_ns(contestant, ENERGY_S, clock)
        return (read() - before) / (count * contestant.batch)


@contextmanager
def _counter() -> Iterator[Callable[[], float] | None]:
    """Reads the energy that the GPU has taken since its driver was loaded, in millijoules."""
    try:
        import pynvml
        import torch

        pynvml.nvmlInit()
        # By its name: NVML and CUDA count the GPUs of a machine in different orders.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # noqa: BLE001 - NVML's binding raises its own kinds, and may be missing
        yield None
        return
    try:
        yield lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    finally:
        pynvml.nvmlShutdown()


def row(contestant: Contestant, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    gpu_ms = statistics.median(figures["gpu_ns"]) / 1e6
    end_ms = statistics.median(figures["end_to_end_ns"]) / 1e6
    energy = figures["energy_mj"]
    return (
        contestant.name,
        contestant.scheme,
        str(contestant.batch),
        f"{gpu_ms:.3f} ms",
        f"{end_ms:.3f} ms",
        f"{contestant.batch / gpu_ms * 1e3:,.0f}",
        f"{energy:.2f}" if energy is not None else "",
    )


if __name__ == "__main__":
    try:
        main()
    except Unavailable as err:
        print(f"error: {err.message}\nhint: {err.hint}", file=sys.stderr)
        sys.exit(err.exit_code)
