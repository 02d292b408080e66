"""A file on one of LiteRT's accelerators, in a process of its own: our side of it and the other.

A GPU's driver may crash, and LiteRT prints to stdout and stderr, even while the process ends. Pixels and logits lie in two files
that both sides have mapped into memory, so that a run copies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import FloatArray
from squeeze_export.errors import Refused
from squeeze_export.runtimes.quiet import one_line
from squeeze_export.runtimes.tflite.compiled_model import LitertModel, NotAll, compile_alone, compile_beside_cpu
from squeeze_export.workers.worker import Answer, Failed, Late, Worker

OPEN_S, RUN_S = 300, 120
"""How long opening a file may take, in which the driver compiles every kernel; and how long one run."""
FILE, PIXELS, LOGITS = "net.tflite", "pixels", "logits"


class LitertProcess:
    """A file opened on an accelerator by another process.

    Attributes:
        account: what LiteRT says of it: `division`, as in `compiled_model.Division`, or None if the accelerator takes all.
        pixels: the input of the next run, in shape and dtype the file's.
        logits: the output of the last run, likewise.
        pid: the process's number.

    Raises:
        Unavailable, Refused: what the process raised; Refused too if anything else ended it, or it took too long.
    """

    def __init__(self, content: bytes, device: str, threads: int, *, source: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        self._worker = Worker(__name__, tool="LiteRT's process", hint="--device cpu")
        self.pid = self._worker.pid
        try:
            (self._worker.folder / FILE).write_bytes(content)
            self.pixels: Any = _map(self._worker.folder / PIXELS, source)
            self.logits: Any = _map(self._worker.folder / LOGITS, result)
            self.account, _ = self._worker.ask("open_file", {"device": device, "threads": threads}, limit_s=OPEN_S)
        except BaseException:
            self.close()
            raise

    def run(self) -> FloatArray:
        """Runs the file once on `pixels`, and returns `logits`, which the next run overwrites.

        Raises:
            Refused: LiteRT failed, ended its process, or took longer than `RUN_S`.
        """
        try:
            self._worker.ask("run_file", limit_s=RUN_S)
        except (Failed, Late):
            self.close()
            raise
        values: FloatArray = self.logits
        return values

    def close(self) -> None:
        """Ends the process. Calling it twice is allowed."""
        self._worker.close()


def _map(path: Path, details: Mapping[str, Any]) -> Any:
    dtype, shape = np.dtype(details["dtype"]), tuple(int(side) for side in details["shape"])
    path.write_bytes(bytes(dtype.itemsize * math.prod(shape)))  # not sparse: a full disk would later end the process by SIGBUS
    return np.memmap(path, dtype, mode="r+", shape=shape)


# --- the other side

_STATE: dict[str, Any] = {}


def open_file(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> Answer:
    """Opens the file on the accelerator alone; on a GPU that does not take all of it, with the CPU beside it."""
    content, device, threads = Path(FILE).read_bytes(), values["device"], values["threads"]
    division = None
    try:
        opened = compile_alone(content, device, threads)
    except NotAll as err:
        division = err.division
        if division is None or not division.gpu_count:
            raise
        opened = compile_beside_cpu(content, threads)
        if opened.division != division:
            raise Refused("LiteRT divides the file in another way when the CPU is beside its GPU", hint="--device cpu") from None
    _STATE.update(content=content, opened=opened, source=_mapped(opened, PIXELS, "input"), result=_mapped(opened, LOGITS, "output"))
    return {"division": None if division is None else asdict(division) | {"refused": sorted(division.refused)}}, {}


def run_file(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> Answer:
    """One run, from one mapped array to the other."""
    (_, pixels, inputs), (name, logits, outputs) = _STATE["source"], _STATE["result"]
    try:
        inputs[0].write(pixels)
        _STATE["opened"].model.run_by_index(0, inputs, outputs)
        logits[...] = outputs[0].read(logits.size, logits.dtype).reshape(logits.shape)
    except RuntimeError as err:
        raise Refused(f"LiteRT failed to make `{name}`: {one_line(err)}") from err
    return {}, {}


def _mapped(opened: LitertModel, file: str, side: str) -> tuple[str, Any, Any]:
    """The name of the only input or output, the mapped array, and LiteRT's buffers."""
    model = opened.model
    (key,) = model.get_signature_list()
    (details,) = getattr(model, f"get_{side}_tensor_details")(key).values()
    array: Any = np.memmap(file, np.dtype(details["dtype"]), mode="r+", shape=tuple(details["shape"]))
    return str(details["name"]), array, getattr(model, f"create_{side}_buffers")(0)
