"""The program that runs on the board: it opens artifacts, runs batches, and times them by the board's own clock.

It is sent there as text, together with `board_facts` and `board_engines`. It needs Python 3.7 or newer, numpy, and one of
ai_edge_litert, tflite_runtime, onnxruntime and openvino; nothing of this package. It talks over stdin and stdout in frames: two
big-endian uint32 lengths, a JSON object, and raw bytes. Each request (`do`: open, infer, time) gets one answer; `progress` frames
may come before it. The program ends when stdin ends, even in the middle of work: a lost connection leaves nothing running.
"""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import signal
import struct
import threading
import time
from contextlib import suppress
from queue import Queue
from typing import Any, BinaryIO

MARK = b"\x00squeeze-export board 1\n"
"""Comes before the first frame. Whatever a login script prints before it is ignored."""
MAX_JSON_BYTES = 1 << 24
MAX_BLOB_BYTES = 1 << 30
LAST_WORDS_S = 1
"""How long the computing thread may go on when the connection has ended."""
PROGRESS_S = 2
RUNTIMES = {
    "litert": ("tflite", ("ai_edge_litert",)),
    "tflite-runtime": ("tflite", ("tflite_runtime",)),
    "litert-builtin": ("tflite", ("ai_edge_litert", "tflite_runtime")),
    "onnxruntime": ("onnx", ("onnxruntime",)),
    "openvino": ("openvino", ("openvino",)),
}
"""Runtime -> the target that it opens, and its modules, of which the first installed one is used. A request that names no runtime
gets the first runtime with an installed module.
"""


class Refusal(Exception):
    """An error to report: its kind (`unavailable`, `refused` or `bad`), one line, and a hint or None."""


def balanced_orders(count: int) -> list[tuple[int, ...]]:
    """Orders in which each item follows every other one equally often (E. J. Williams, 1949), as in `measure.latency`."""
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    square = [tuple((step + shift) % count for step in zigzag) for shift in range(count)]
    return square if count % 2 == 0 else square + [order[::-1] for order in square]


class Runner:
    """The open artifacts, by the numbers that the requests give them.

    Args:
        tell: sends a frame.
        facts: the module `board_facts`, or a stand-in for it.
        engines: target -> the class that opens its files.
        clock: nanoseconds, never going back.
    """

    def __init__(self, tell: Any, facts: Any, engines: Any, clock: Any = time.perf_counter_ns) -> None:
        self._tell, self._facts, self._engines, self._clock = tell, facts, engines, clock
        self._opened: dict[int, Any] = {}

    def greeting(self, cpus: list[int] | None) -> tuple[dict[str, Any], bytes]:
        """Moves to the logical CPUs `cpus`, and gives the first frame: what is installed, and the board's facts.

        Raises:
            Refusal: the board has no such CPUs, or its Python has no numpy.
        """
        try:
            if cpus:
                os.sched_setaffinity(0, cpus)
        except OSError as err:
            raise Refusal("bad", f"the board cannot stay on the CPUs `{cpus}`: {err.strerror}", "--cpus") from err
        try:
            import numpy
        except ImportError as err:
            hint = "install it there (pip install numpy), or name another Python with --board-python"
            raise Refusal("unavailable", f"the board's Python has no numpy: {err}", hint) from err
        greeting = {
            "pid": os.getpid(),
            "numpy": numpy.__version__,
            "runtimes": self._facts.installed([module for _, modules in RUNTIMES.values() for module in modules]),
            "emulated": self._facts.emulated(),
            "facts": self._facts.facts(),
        }
        return greeting, b""

    def answer(self, request: dict[str, Any], blob: bytes) -> tuple[dict[str, Any], bytes]:
        """The answer to one request, and the bytes behind it."""
        work = {"open": self._open, "infer": self._infer, "time": self._time}[request["do"]]
        return work(request, blob)

    def _open(self, request: dict[str, Any], blob: bytes) -> tuple[dict[str, Any], bytes]:
        """Opens an artifact in the runtime that is asked for, or in the first one that is installed."""
        target, asked = request["target"], request["runtime"]
        able = {name: modules for name, (opens, modules) in RUNTIMES.items() if opens == target}
        if not able or (asked is not None and asked not in able):
            raise Refusal("unavailable", f"`{asked or target}` is not run on boards", f"what is: {', '.join(able or RUNTIMES)}")
        wanted = [(name, module) for name in ([asked] if asked is not None else able) for module in able[name]]
        here = self._facts.installed([module for _, module in wanted])
        name, module = next((pair for pair in wanted if pair[1] in here), (None, None))
        if name is None:
            modules = list(dict.fromkeys(module for _, module in wanted))
            raise Refusal(
                "unavailable",
                f"the board's Python has no `{'` or `'.join(modules)}`, which opens {target} files",
                f"install it there (pip install {modules[0].replace('_', '-')}), or name another Python with --board-python",
            )
        content = io.BytesIO(blob)
        files = {file: content.read(size) for file, size in request["files"]}
        engine = self._engines[target](files, module, name.endswith("-builtin"), request["threads"])
        self._opened[request["id"]] = engine
        version = f"{module} {self._facts.installed([module])[module]}"  # some modules know it only once they are imported
        return {"runtime": name, "version": version, "threads": engine.threads, "records": engine.records()}, b""

    def _infer(self, request: dict[str, Any], blob: bytes) -> tuple[dict[str, Any], bytes]:
        logits = self._opened[request["id"]].infer(_pixels(request["shape"], blob))
        return {"shape": list(logits.shape)}, logits.astype("<f4").tobytes()

    def _time(self, request: dict[str, Any], blob: bytes) -> tuple[dict[str, Any], bytes]:
        """Runs all named artifacts in rounds, in changing order, and keeps every sample. Reads frequencies between the rounds."""
        import numpy

        if self._facts.emulated():
            raise Refusal("bad", "an emulated board is not timed", None)
        rounds, content, calls = request["rounds"], io.BytesIO(blob), []
        for number, shape in request["sessions"]:
            calls.append((self._opened[number].infer, _pixels(shape, content.read(int(numpy.prod(shape))))))
        before, frequencies = self._facts.state(), []
        samples: list[list[int]] = [[] for _ in calls]
        for infer, pixels in calls:
            for _ in range(request["warmup"]):
                infer(pixels)
            self._tell({"progress": 0, "total": rounds})
        orders, told_s = balanced_orders(len(calls)), time.monotonic()
        gc.collect()
        gc.disable()
        try:
            for done in range(rounds):
                for index in orders[done % len(orders)]:
                    infer, pixels = calls[index]
                    began = self._clock()
                    infer(pixels)
                    samples[index].append(self._clock() - began)
                current = self._facts.fastest_mhz("scaling_cur_freq")
                if current is not None:
                    frequencies.append(current)
                if time.monotonic() - told_s > PROGRESS_S:  # seldom: sshd, which passes it on, shares the cores
                    self._tell({"progress": done + 1, "total": rounds})
                    told_s = time.monotonic()
        finally:
            gc.enable()
        return {"samples_ns": samples, "before": before, "after": self._facts.state(), "frequencies_mhz": frequencies}, b""


def _pixels(shape: list[int], blob: bytes) -> Any:
    import numpy

    return numpy.frombuffer(blob, numpy.uint8).reshape(shape)


def read_frame(source: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None at the end, or for what is not a whole frame of bounded size."""
    head = source.read(8)
    if len(head) < 8:
        return None
    sizes = struct.unpack(">II", head)
    if sizes[0] > MAX_JSON_BYTES or sizes[1] > MAX_BLOB_BYTES:
        return None
    text, blob = source.read(sizes[0]), source.read(sizes[1])
    return (json.loads(text.decode()), blob) if (len(text), len(blob)) == sizes else None


def frame(content: dict[str, Any], blob: bytes = b"") -> bytes:
    """The bytes of one frame."""
    text = json.dumps(content).encode()
    return struct.pack(">II", len(text), len(blob)) + text + blob


def failure(err: BaseException) -> dict[str, Any]:
    """The answer that reports an error."""
    if isinstance(err, Refusal):
        kind, message, hint = err.args
        return {"error": kind, "message": message, "hint": hint}
    text = " ".join(str(err).split())[:400] or type(err).__name__
    if isinstance(err, OSError) and err.errno == 28:  # ENOSPC
        return {"error": "unavailable", "message": f"the board's disk is full: {text}", "hint": "make room in its temporary folder"}
    if isinstance(err, MemoryError):
        return {"error": "unavailable", "message": f"the board's memory does not suffice: {text}", "hint": None}
    return {"error": "refused", "message": text, "hint": None}


def serve(source: BinaryIO, sink: BinaryIO, facts: Any, engines: Any, cpus: list[int] | None, folder: str) -> None:
    """Greets, and answers requests until the connection ends.

    Args:
        source: stdin.
        sink: stdout, which nothing else may write to.
        facts: the module `board_facts`.
        engines: target -> the class that opens its files.
        cpus: logical CPUs to stay on; None allows all.
        folder: a temporary one, removed at the end. The shell that made it also removes it, unless the shell was killed.
    """
    requests: Queue[Any] = Queue()

    def listen() -> None:
        found: Any = ()
        try:
            while found is not None:
                found = read_frame(source)
                requests.put(found)
        except Exception as err:  # noqa: BLE001  # not a frame, or too large for the memory
            requests.put(None)
            with suppress(OSError):
                tell(failure(err))
        finally:
            time.sleep(LAST_WORDS_S)  # an idle runner ends by itself; one that computes is killed
            shutil.rmtree(folder, ignore_errors=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(content: dict[str, Any], blob: bytes = b"") -> None:
        sink.write(frame(content, blob))
        sink.flush()

    def answered(work: Any, *arguments: Any) -> bool:
        """Sends what `work` gives, or its error; whether it gave something."""
        try:
            tell(*work(*arguments))
        except Exception as err:  # noqa: BLE001  # a runtime may raise anything
            tell(failure(err))
            return False
        return True

    runner = Runner(tell, facts, engines)
    sink.write(MARK)
    try:
        if answered(runner.greeting, cpus):
            threading.Thread(target=listen, daemon=True).start()
            for request, blob in iter(requests.get, None):
                answered(runner.answer, request, blob)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # in this thread too: the other one may be ended before it does so
