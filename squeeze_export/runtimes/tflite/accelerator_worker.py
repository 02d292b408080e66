"""A file on one of LiteRT's accelerators, in a process of its own:
`python -m squeeze_export.runtimes.tflite.accelerator_worker FOLDER DEVICE THREADS`.

A GPU's driver may crash, and LiteRT prints to stdout and stderr, also while the process ends. `accelerator_process` is the other
side: pixels and logits lie in two files of the folder that both have mapped, and each line of stdin asks for one run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from squeeze_export.errors import Refused, SqueezeExportError
from squeeze_export.runtimes.tflite.compiled_model import Compiled, NotAll, compile_alone, compile_beside_cpu

FILE, PIXELS, LOGITS = "net.tflite", "pixels", "logits"


def main(folder: Path, device: str, threads: int) -> None:
    """Opens the file, tells what LiteRT says of it, and runs it as often as it is asked."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # LiteRT's own lines are no replies
    try:
        content = (folder / FILE).read_bytes()
        opened, account = _opened(content, device, threads)
        _, pixels, inputs = _mapped(opened, folder / PIXELS, "input")
        name, logits, outputs = _mapped(opened, folder / LOGITS, "output")
    except SqueezeExportError as err:
        kind = "Unavailable" if type(err).__name__ == "Unavailable" else "Refused"
        _reply(replies, {"kind": kind, "message": err.message, "hint": err.hint})
        return
    _reply(replies, account)
    for _ in sys.stdin:
        _reply(replies, _run(opened, (inputs, pixels), (outputs, logits), name))


def _run(opened: Compiled, source: tuple[Any, Any], result: tuple[Any, Any], name: str) -> Mapping[str, Any]:
    """One run, from one mapped array to the other; what went wrong, or nothing."""
    (inputs, pixels), (outputs, logits) = source, result
    try:
        inputs[0].write(pixels)
        opened.model.run_by_index(0, inputs, outputs)
        logits[...] = outputs[0].read(logits.size, logits.dtype).reshape(logits.shape)
    except RuntimeError as err:
        return {"kind": "Refused", "message": f"LiteRT failed to make `{name}`: {' '.join(str(err).split())}", "hint": None}
    return {}


def _opened(content: bytes, device: str, threads: int) -> tuple[Compiled, Mapping[str, Any]]:
    """The file on the accelerator alone; on a GPU with the CPU beside it, where the accelerator does not take all of it."""
    try:
        opened = compile_alone(content, device, threads)
    except NotAll as err:
        division = err.division
        if division is None or not division.gpu_count:
            raise
    else:
        return opened, {"division": None}
    opened = compile_beside_cpu(content, threads)
    if opened.division != division:
        raise Refused("LiteRT divides the file in another way when the CPU is beside its GPU", hint="--device cpu")
    return opened, {"division": asdict(division) | {"refused": sorted(division.refused)}}


def _mapped(opened: Compiled, path: Path, side: str) -> tuple[str, Any, Any]:
    """Name of the one input or output, the mapped array, and LiteRT's buffers."""
    model = opened.model
    (key,) = model.get_signature_list()
    (details,) = getattr(model, f"get_{side}_tensor_details")(key).values()
    array: Any = np.memmap(path, np.dtype(details["dtype"]), mode="r+", shape=tuple(details["shape"]))
    return str(details["name"]), array, getattr(model, f"create_{side}_buffers")(0)


def _reply(replies: IO[str], answer: Mapping[str, Any]) -> None:
    replies.write(json.dumps(answer) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
