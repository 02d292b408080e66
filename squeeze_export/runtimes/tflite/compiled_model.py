"""Files opened with LiteRT's `CompiledModel`, the API of its GPU and NPU accelerators, and what it prints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from squeeze_export.core import require
from squeeze_export.errors import Refused
from squeeze_export.runtimes.quiet import one_line, quiet

_REGISTERED = re.compile(r"RegisterAccelerator: .*name=(.+)$")
_COUNTS = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")
_REFUSED = re.compile(r"^([A-Z0-9_]+): ")
_LIST = "operations are not supported by GPU delegate"
_NOT_ALL = "Some ops are not accelerated"


@dataclass
class LitertModel:
    """A file that LiteRT has compiled.

    Attributes:
        model: a `CompiledModel`; None once it is closed.
        accelerator: the name under which LiteRT registered it, such as `GPU WebGPU`.
        log: what LiteRT printed meanwhile, line by line.
    """

    model: Any
    accelerator: str
    log: tuple[str, ...]

    @property
    def division(self) -> Division | None:
        """What LiteRT said of the operators that its GPU does not take; None if it takes all."""
        return division_of(self.log)

    def close(self) -> None:
        """Frees it. Calling it twice is allowed."""
        with quiet():
            self.model = None


@dataclass(frozen=True)
class Division:
    """What LiteRT says of a file that its GPU accelerator takes only in part.

    Attributes:
        refused: kinds of operators that the accelerator does not take, such as `RELU_0_TO_1`.
        gpu_count: operators that run on the GPU.
        cpu_count: those that run on the CPU: the refused ones, and others that these cut off.
        lines: the list as it was printed, one operator and its reason a line.
    """

    refused: frozenset[str]
    gpu_count: int
    cpu_count: int
    lines: tuple[str, ...]


class NotAll(Refused):
    """The accelerator does not take every operator of the file.

    Attributes:
        division: LiteRT's account of it, if it gives one.
    """

    def __init__(self, message: str, division: Division | None) -> None:
        super().__init__(message, hint="--device cpu")
        self.division = division


def compile_alone(content: bytes, device: str, threads: int) -> LitertModel:
    """Compiles a file for an accelerator alone, so that nothing can run on the CPU unnoticed.

    With the CPU beside it, LiteRT calls a file fully accelerated even if XNNPACK runs a part of it.

    Args:
        content: a TFLite file; must outlive the compiled model.
        device: `gpu` or `npu`.
        threads: of what runs on the CPU.

    Raises:
        Unavailable: `ai-edge-litert` is not installed.
        NotAll: the accelerator does not take every operator.
        Refused: LiteRT cannot compile it.
    """
    found = _compile(content, device, threads, beside_cpu=False)
    lines = " ".join(found.log)
    # Without a compiler plug-in for the NPU, LiteRT runs the file on the CPU and calls that accelerated, as its own log says.
    if not found.model.is_fully_accelerated() or (device == "npu" and "No compiler plugin" in lines):
        found.close()
        raise Refused(f"LiteRT opens the file for its {device.upper()} and does not run it there", hint="--device cpu")
    return found


def compile_beside_cpu(content: bytes, threads: int) -> LitertModel:
    """Compiles a file for the GPU, and the rest of it for the CPU; see `compile_alone`."""
    return _compile(content, "gpu", threads, beside_cpu=True)


def division_of(log: tuple[str, ...]) -> Division | None:
    """What LiteRT printed about the operators that its GPU accelerator does not take; None if it printed nothing of them."""
    counts = [(number, match) for number, line in enumerate(log) if (match := _COUNTS.search(line))]
    starts = [number for number, line in enumerate(log) if _LIST in line]
    if len(counts) != 1 or len(starts) != 1 or starts[0] > counts[0][0]:
        return None
    number, match = counts[0]
    lines = log[starts[0] + 1 : number]
    kinds = frozenset(found[1] for line in lines if (found := _REFUSED.match(line)))
    return Division(kinds, int(match[1]), int(match[2]), lines)


def _compile(content: bytes, device: str, threads: int, *, beside_cpu: bool) -> LitertModel:
    module = require("ai_edge_litert.compiled_model", "tflite")
    kinds = module.HardwareAccelerator
    wanted = kinds[device.upper()]
    options = module.Options(
        hardware_accelerators=wanted | kinds.CPU if beside_cpu else wanted,
        cpu_options=module.CpuOptions(num_threads=threads),
        # LiteRT would choose half precision, in which an fp32 file is another network.
        gpu_options=module.GpuOptions(enforce_f32=True),
    )
    with quiet() as printed:
        try:
            model = module.CompiledModel.from_buffer(content, options=options)
        except RuntimeError as err:
            model, failure = None, err
    log = tuple(printed)
    if model is None:
        if _NOT_ALL in str(failure):
            told = division_of(log)
            why = f": {'; '.join(told.lines)}" if told else ""
            raise NotAll(f"LiteRT's {device.upper()} accelerator does not take all of the file{why}", told) from failure
        raise Refused(f"LiteRT cannot compile the file for its {device.upper()}: {_failure(log, failure)}") from failure
    names = [match[1] for line in log if (match := _REGISTERED.search(line)) and match[1].upper().startswith(device.upper())]
    return LitertModel(model, names[0] if names else device.upper(), log)


def _failure(log: tuple[str, ...], failure: BaseException) -> str:
    """The first error that LiteRT printed: what it raises only names a line of its source."""
    errors = [line.split("] ", 1)[-1] for line in log if line.startswith("ERROR")]
    return errors[0] if errors else one_line(failure)
