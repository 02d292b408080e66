"""What runs on the board: opens artifacts, runs batches, and times them against the board's own clock.

It is sent there as text together with `board_facts` and `board_engines`, and needs Python 3.7 or newer, numpy, and one of
ai_edge_litert, tflite_runtime, onnxruntime and openvino; nothing of this package. It talks over its stdin and stdout in frames: two
big-endian uint32 with the lengths, a JSON object, and raw bytes. A request (`do`: open, infer, time, close) has one answer;
`progress` frames may come before it. It ends where stdin does, whatever it is doing: a lost connection leaves nothing running.
"""

from __future__ import annotations

import gc
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
"""Comes before the first frame; whatever a login script printed before it is passed over."""
MAX_JSON_BYTES = 1 << 24
MAX_BLOB_BYTES = 1 << 30
LAST_WORDS_S = 1
"""What is left to the thread that computes, once the other side has gone."""
PROGRESS_S = 2
RUNTIMES = {
    "litert": ("tflite", ("ai_edge_litert",)),
    "tflite-runtime": ("tflite", ("tflite_runtime",)),
    "litert-builtin": ("tflite", ("ai_edge_litert", "tflite_runtime")),
    "onnxruntime": ("onnx", ("onnxruntime",)),
    "openvino": ("openvino", ("openvino",)),
}
"""Runtime -> the target that it opens, and the modules that hold it: the first that is installed. Where no runtime is asked for,
the first whose module is installed.
"""


class Refusal(Exception):
    """What the other side is told: a kind (`unavailable`, `refused`, `bad`), one line, and a hint or None."""


def balanced_orders(count: int) -> list[tuple[int, ...]]:
    """Orders in which each follows every other one equally often (E. J. Williams, 1949): those of `measure.latency`."""
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    square = [tuple((step + shift) % count for step in zigzag) for shift in range(count)]
    return square if count % 2 == 0 else square + [order[::-1] for order in square]


class Runner:
    """The artifacts that are open, by the number that the other side gave them.

    Args:
        tell: sends a frame.
        facts: the module `board_facts`, or what stands for it.
        engines: target -> what opens it.
        clock: nanoseconds, never going back.
    """

    def __init__(self, tell: Any, facts: Any, engines: Any, clock: Any = time.perf_counter_ns) -> None:
        self._tell, self._facts, self._engines, self._clock = tell, facts, engines, clock
        self._open: dict[int, Any] = {}

    def greeting(self) -> dict[str, Any]:
        """The first frame."""
        import numpy

        return {
            "hello": 1,
            "pid": os.getpid(),
            "numpy": numpy.__version__,
            "runtimes": self._facts.installed([module for _, modules in RUNTIMES.values() for module in modules]),
            "emulated": self._facts.emulated(),
            "facts": self._facts.facts(),
        }

    def answer(self, request: dict[str, Any], blob: bytes) -> tuple[dict[str, Any], bytes]:
        """One request's answer, and the bytes behind it."""
        do = request["do"]
        if do == "open":
            return self._opened(request, blob), b""
        if do == "infer":
            logits = self._open[request["id"]].infer(_pixels(request["shape"], blob))
            return {"shape": list(logits.shape)}, logits.astype("<f4").tobytes()
        if do == "time":
            return self._timed(request, blob), b""
        if do == "close":
            self._open.pop(request["id"], None)
            return {}, b""
        raise Refusal("bad", f"the board does not know `{do}`", None)

    def _opened(self, request: dict[str, Any], blob: bytes) -> dict[str, Any]:
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
        files, start = {}, 0
        for file, size in request["files"]:
            files[file] = blob[start : start + size]
            start += size
        engine = self._engines[target](files, module, name.endswith("-builtin"), request["threads"])
        self._open[request["id"]] = engine
        version = f"{module} {self._facts.installed([module])[module]}"  # some tell it only once they are imported
        return {"runtime": name, "version": version, "threads": engine.threads, "records": engine.records()}

    def _timed(self, request: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Rounds of all that are named, in changing order; every sample is kept. Frequencies are read between the rounds."""
        rounds, calls, start = request["rounds"], [], 0
        for number, shape in request["sessions"]:
            size = 1
            for side in shape:
                size *= side
            calls.append((self._open[number].infer, _pixels(shape, blob[start : start + size])))
            start += size
        if self._facts.emulated():
            raise Refusal("bad", "an emulated board is not timed", None)
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
                if time.monotonic() - told_s > PROGRESS_S:  # sshd, which passes it on, has the same cores
                    self._tell({"progress": done + 1, "total": rounds})
                    told_s = time.monotonic()
        finally:
            gc.enable()
        return {"samples_ns": samples, "before": before, "after": self._facts.state(), "frequencies_mhz": frequencies}


def _pixels(shape: list[int], blob: bytes) -> Any:
    import numpy

    return numpy.frombuffer(blob, numpy.uint8).reshape(shape)


def read_frame(source: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None at the end, or where it is none."""
    head = source.read(8)
    if len(head) < 8:
        return None
    sizes = struct.unpack(">II", head)
    if sizes[0] > MAX_JSON_BYTES or sizes[1] > MAX_BLOB_BYTES:
        return None
    text, blob = source.read(sizes[0]), source.read(sizes[1])
    return (json.loads(text.decode()), blob) if (len(text), len(blob)) == sizes else None


def frame(content: dict[str, Any], blob: bytes = b"") -> bytes:
    """One frame's bytes."""
    text = json.dumps(content).encode()
    return struct.pack(">II", len(text), len(blob)) + text + blob


def failure(err: BaseException) -> dict[str, Any]:
    """What the other side is told of an error."""
    if isinstance(err, Refusal):
        kind, message, hint = err.args
        return {"error": kind, "message": message, "hint": hint}
    text = " ".join(str(err).split())[:400] or type(err).__name__
    if isinstance(err, OSError) and err.errno == 28:  # ENOSPC
        return {"error": "unavailable", "message": f"the board's disk is full: {text}", "hint": "make room in its temporary folder"}
    if isinstance(err, MemoryError):
        return {"error": "unavailable", "message": f"the board's memory does not suffice: {text}", "hint": None}
    return {"error": "refused", "message": text, "hint": None}


def serve(
    source: BinaryIO, sink: BinaryIO, facts: Any, engines: Any, cpus: list[int] | None = None, folder: str | None = None
) -> None:
    """Greets, and answers until the other side has gone.

    Args:
        source: stdin.
        sink: stdout, which nothing else may write to.
        facts: the module `board_facts`.
        engines: target -> what opens it.
        cpus: logical CPUs to stay on.
        folder: a temporary one, to be removed at the end. The shell that made it does so too, unless it was killed.
    """
    requests: Queue[Any] = Queue()

    def listen() -> None:
        found: Any = ()
        try:
            while found is not None:
                found = read_frame(source)
                requests.put(found)
        except Exception as err:  # noqa: BLE001  # no memory for what comes, or what comes is no frame
            requests.put(None)
            with suppress(OSError):
                tell(failure(err))
        finally:
            time.sleep(LAST_WORDS_S)  # an idle runner ends by itself; one that computes is ended
            _remove(folder)
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(content: dict[str, Any], blob: bytes = b"") -> None:
        sink.write(frame(content, blob))
        sink.flush()

    runner = Runner(tell, facts, engines)
    sink.write(MARK)
    try:
        if _greeted(runner, tell, cpus):
            threading.Thread(target=listen, daemon=True).start()
            _answer_all(runner, requests, tell)
    finally:
        _remove(folder)  # by this thread too: the other one ends where this one does


def _greeted(runner: Runner, tell: Any, cpus: list[int] | None) -> bool:
    """Tells what is here, or why it cannot begin."""
    try:
        if cpus:
            os.sched_setaffinity(0, cpus)
    except OSError as err:
        tell(failure(Refusal("bad", f"the board cannot stay on the CPUs `{cpus}`: {err.strerror}", "--cpus")))
        return False
    try:
        tell(runner.greeting())
    except ImportError as err:
        hint = "install it there (pip install numpy), or name another Python with --board-python"
        tell(failure(Refusal("unavailable", f"the board's Python has no numpy: {err}", hint)))
        return False
    except OSError as err:
        tell(failure(err))
        return False
    return True


def _answer_all(runner: Runner, requests: Queue[Any], tell: Any) -> None:
    """Answers what comes until the end is there."""
    while True:
        found = requests.get()
        if found is None:
            return
        try:
            tell(*runner.answer(*found))
        except Exception as err:  # noqa: BLE001  # whatever a runtime raises, the other side is to hear of it
            tell(failure(err))


def _remove(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
