"""A TFLite file on one of LiteRT's accelerators; LiteRT itself runs in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from squeeze_export.core import Artifact, ByteArray, FloatArray
from squeeze_export.errors import Refused
from squeeze_export.formats.contents import FileOperator
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.quiet import lower_log_levels
from squeeze_export.runtimes.session import BatchSession, read_file
from squeeze_export.runtimes.tflite.accelerator_process import LitertProcess
from squeeze_export.runtimes.tflite.accelerators import Accelerator
from squeeze_export.runtimes.tflite.compiled_model import Division
from squeeze_export.runtimes.tflite.interpreter import InterpreterRuntime, classifier_interface, pixels_as, real_values
from squeeze_export.runtimes.tflite.placement import contents_of, placement, taken_of


class AcceleratedSession(BatchSession):
    """A TFLite file opened on a GPU or NPU. Not to be used by two threads at once. A file of a free batch is run image by image.

    Attributes:
        device: `gpu` or `npu`: LiteRT says that at least a part of the file runs there, and `placement` which.
        threads: of what runs on the CPU.
        kernels: the accelerator as LiteRT registered it, such as `GPU WebGPU`, and whether its driver is a software one.
        evidence: `emulated` if the driver of a GPU computes on the CPU.
        placement: which operators run on the device, and which on the CPU.
        facts: `accelerator`, `driver`, `driver_kind`, `fully_accelerated`.

    Raises:
        BadInput: the file cannot be read.
        Refused: LiteRT cannot open it, runs nothing of it on the device, or does not tell which part; or it is not an image
            classifier.
    """

    def __init__(self, artifact: Artifact, accelerator: Accelerator, runtime: InterpreterRuntime, *, threads: int) -> None:
        self.runtime, self.device, self.threads = runtime.NAME, accelerator.device, threads
        self.evidence = "emulated" if accelerator.software else "measured"
        self.kernels = accelerator.name + (", software driver" if accelerator.software else "")
        lower_log_levels()
        content = read_file(artifact.path)
        # The interpreter lists the file's operators, and finds a damaged file before a driver gets it.
        with replace(runtime, delegates=False).interpreting(content, artifact.path, threads=1) as interpreter:
            source, self._output = classifier_interface(interpreter)
            nodes, tensors = interpreter._get_ops_details(), interpreter.get_tensor_details()
            listed = contents_of(nodes, tensors, [int(source["index"])])
        batch, *sides = (int(side) for side in source["shape"])
        super().__init__(sides, least=batch, most=batch)
        self._process = LitertProcess(content, self.device, threads, source=source, result=self._output)
        try:
            taken, account = self._taken(listed.operators, artifact.path)
        except Refused:
            self._process.close()
            raise
        floats = scheme_named(artifact.scheme).floats
        self.placement = placement(listed, taken, device=self.device, floats=floats, source=account)
        self.facts = {
            "accelerator": accelerator.name,
            "driver": accelerator.driver,
            "driver_kind": accelerator.kind,
            "fully_accelerated": len(taken) == len(listed.operators),
        }

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        self._process.pixels[...] = pixels_as(images, self._process.pixels.dtype)
        return real_values(self._process.run(), self._output)

    def free(self) -> None:
        """Ends the process."""
        self._process.close()

    def _taken(self, operators: Sequence[FileOperator], path: Path) -> tuple[frozenset[int], str]:
        """The operators that run on the device, and what says so."""
        told = self._process.account["division"]
        if told is None:
            return frozenset(range(len(operators))), f"LiteRT with its {self.device.upper()} accelerator alone: fully accelerated"
        division = Division(frozenset(told["refused"]), told["gpu_count"], told["cpu_count"], tuple(told["lines"]))
        counts = f"{division.gpu_count} on the GPU, {division.cpu_count} on the CPU"
        taken = taken_of(operators, division)
        if taken is None:
            raise Refused(
                f"`{path}`: LiteRT divides its operators, {counts}, and does not tell which are where: {division.lines[0]}",
                hint="--device cpu",
            )
        return taken, f"LiteRT's list of what its GPU accelerator does not take: {counts}"
