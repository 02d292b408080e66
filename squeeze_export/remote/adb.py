"""An Android device reached by `adb`, with LiteRT's own `benchmark_model`. It gives latency only: the program prints no logits.

For several inferences `benchmark_model` prints only statistics, but for a run of one inference it prints the time of that one
(`count=1 curr=<microseconds>`). So each sample comes from its own process, which opens the file, warms up, and times one inference.
The files take turns, as everywhere else. Flags and output: tensorflow/lite/tools/benchmark/README.md and benchmark_model.cc.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import tempfile
from collections import ChainMap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from squeeze_export.core import Artifact, ByteArray, FloatArray, Progress, silent
from squeeze_export.errors import BadInput, Inapplicable, Refused, SqueezeExportError, Unavailable
from squeeze_export.remote.address import AdbAddress
from squeeze_export.remote.runner import balanced_orders
from squeeze_export.runtimes.session import BatchSession

RUNTIME = "benchmark_model"
ORDINARY_S, PUSH_S, RUN_S = 30, 120, 300
"""Limits: for a short command, to copy a file, and for one process with its warm-up."""
MAX_OUTPUT_BYTES = 1 << 20
FOLDER = "/data/local/tmp"
_PROPERTIES: Mapping[str, str] = {
    "board": "ro.product.model",
    "soc": "ro.soc.model",
    "platform": "ro.board.platform",
    "architecture": "ro.product.cpu.abi",
    "os": "ro.build.version.release",
    "kernel_qemu": "ro.kernel.qemu",
    "boot_qemu": "ro.boot.qemu",
}
_STATE = (
    "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null || true; echo ==;"
    " cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq 2>/dev/null || true; echo ==;"
    " cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq 2>/dev/null || true; echo ==;"
    " dumpsys thermalservice 2>/dev/null | grep -i -m 1 'thermal status' || true"
)
_RUN = re.compile(r"^.*Running benchmark for at least", re.MULTILINE)
_SAMPLE = re.compile(r"count=1 curr=(\d+(?:\.\d+)?(?:e\+?\d+)?)")
_APPLIED = re.compile(r"Explicitly applied (\w+) delegate, and the model graph will be (completely|partially) executed")
_REPLACED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\)")


class AdbBoard:
    """An Android device with `benchmark_model` in a folder of ours.

    Args:
        address: of the device.
        binary: `benchmark_model`, built for the device's processor.

    Attributes:
        facts: what the device reports about itself.

    Raises:
        BadInput: there is no binary.
        Unavailable: adb or the device is missing, or the device is an emulator, whose latency means nothing.
    """

    def __init__(self, address: AdbAddress, binary: Path | None) -> None:
        if binary is None or not binary.is_file():
            named = "an Android device runs LiteRT's benchmark_model" if binary is None else f"`{binary}` is no file"
            raise BadInput(named, hint="--benchmark-binary FILE, built for the device: see docs/remote.md")
        self._serial, self._folder, self._count = address.serial, f"{FOLDER}/squeeze-export-{secrets.token_hex(8)}", 0
        self.facts: dict[str, Any] = {"on": "adb", "logits": "not given by benchmark_model", **self._properties()}
        if self.facts.pop("kernel_qemu", "") == "1" or self.facts.pop("boot_qemu", "") == "1":
            raise Unavailable(f"`{self._serial}` is an emulator, whose latency means nothing", hint="take a real device")
        self.facts |= self._state("")
        self._made = True
        try:
            self._shell(f"mkdir {self._folder}")
            self._adb("push", str(binary.absolute()), f"{self._folder}/benchmark_model", limit_s=PUSH_S)
            self._shell(f"chmod 700 {self._folder}/benchmark_model")
        except BaseException:
            self.close()
            raise

    def open_session(self, artifact: Artifact, *, runtime: str | None, device: str, threads: int) -> AdbSession:
        """Copies a TFLite file to the device, and runs it once to see which delegate takes it.

        Raises:
            BadInput: a runtime was asked for.
            Inapplicable: another target.
            Unavailable: another device than `cpu`.
            Refused: `benchmark_model` does not run the file.
        """
        if artifact.target != "tflite":
            raise Inapplicable(f"benchmark_model opens TFLite files, not {artifact.target}", hint="--on ssh://... runs the others")
        if device != "cpu":
            raise Unavailable(f"Android devices run files on their `cpu`, not on `{device}`", hint="leave out --device")
        if runtime is not None:
            raise BadInput(f"the runtime `{runtime}` is not run by adb", hint="leave out --runtime")
        self._count += 1
        path = f"{self._folder}/{self._count}.tflite"
        self._adb("push", str(artifact.path.absolute()), path, limit_s=PUSH_S)
        return AdbSession(self, path, threads, self.run(path, threads, warmup=1))

    def run(self, path: str, threads: int, *, warmup: int) -> str:
        """The output of `benchmark_model` for one timed inference after a warm-up.

        Raises:
            Refused: it failed.
        """
        return self._shell(
            f"cd {self._folder} && ./benchmark_model --graph={path} --num_threads={threads} --use_xnnpack=true --num_runs=1"
            f" --min_secs=0 --warmup_runs={warmup} --warmup_min_secs=0 2>&1",
            limit_s=RUN_S,
        )

    def time(
        self, sessions: Sequence[tuple[AdbSession, ByteArray]], *, warmup: int, rounds: int, progress: Progress = silent
    ) -> list[tuple[int, ...]]:
        """Times sessions in turns, with one process per sample.

        Args:
            sessions: each with a batch, which is not sent: benchmark_model makes its own.
            warmup: inferences of each process before the timed one.
            rounds: samples of each session.
            progress: called after each round.

        Returns:
            For each session, its samples in ns, converted from the printed microseconds.
        """
        samples: list[list[int]] = [[] for _ in sessions]
        orders = balanced_orders(len(sessions))
        for done in range(rounds):
            for index in orders[done % len(orders)]:
                session, _ = sessions[index]
                samples[index].append(sample_ns(self.run(session.path, session.threads, warmup=warmup)))
            progress("timing on the device", done + 1, rounds)
        self.facts |= self._state("_after")
        return [tuple(row) for row in samples]

    def close(self) -> None:
        """Removes the folder. A second call does nothing."""
        if self._made:
            self._made = False
            with suppress(SqueezeExportError):
                self._shell(f"rm -rf {self._folder}")

    def _properties(self) -> dict[str, Any]:
        told = self._shell("; ".join(f"getprop {name}" for name in _PROPERTIES.values()))
        values = [line.strip()[:200] for line in told.split("\n")]
        return {fact: value for fact, value in zip(_PROPERTIES, values, strict=False) if value}

    def _state(self, suffix: str) -> dict[str, Any]:
        """Governor, current and highest frequency of the fastest core, thermal status: those that the device reports."""
        parts = [part.strip() for part in self._shell(_STATE).split("==")]
        governor, current, most, thermal = (parts + [""] * 4)[:4]
        found: dict[str, Any] = {}
        if re.fullmatch(r"\w{1,32}", governor) and not suffix:
            found["governor"] = governor
        for name, text in ((f"frequency_mhz{suffix}", current), ("max_frequency_mhz", most)):
            numbers = [int(word) for word in text.split() if word.isdigit()]
            if numbers:
                found[name] = max(numbers) / 1000
        status = re.search(r"(\d+)\s*$", thermal)
        if status:
            found[f"thermal_status{suffix}"] = int(status[1])
        return found

    def _shell(self, script: str, *, limit_s: float = ORDINARY_S) -> str:
        return self._adb("shell", script, limit_s=limit_s)

    def _adb(self, *arguments: str, limit_s: float = ORDINARY_S) -> str:
        command = ["adb", "-s", self._serial, *arguments]
        try:
            with tempfile.TemporaryFile() as out_file, tempfile.TemporaryFile() as err_file:  # a device may print without end
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=out_file, stderr=err_file, timeout=limit_s, check=False
                )
                out, printed = (_start_of(file) for file in (out_file, err_file))
        except FileNotFoundError as err:
            raise Unavailable("`adb` is not installed", hint="install Android's platform-tools") from err
        except OSError as err:
            raise Unavailable(f"`adb` cannot be started: {err.strerror or err}", hint="install Android's platform-tools") from err
        except subprocess.TimeoutExpired as err:
            raise Unavailable(f"the device `{self._serial}` gave no answer within `{limit_s:g}` s", hint="adb devices") from err
        if done.returncode == 0:
            return out
        text = " ".join((printed or out).split())[-300:]
        if re.search(r"device .*not found|no devices|offline|unauthorized|failed to connect|device still", printed):
            raise Unavailable(f"adb does not reach `{self._serial}`: {text}", hint="adb devices lists those that are there")
        if "No space left" in printed + out:
            raise Unavailable(f"the device `{self._serial}` is full: {text}", hint=f"make room in {FOLDER}")
        raise Refused(f"the device `{self._serial}` failed: {text or f'exit code {done.returncode}'}")


def _start_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace")


class AdbSession(BatchSession):
    """A TFLite file on an Android device. It can be timed, but benchmark_model gives no logits. Satisfies `core.Session`.

    Attributes:
        path: on the device.
        kernels: the delegate, and `builtin` if it does not take the whole graph.
        facts: the device's, and how many of the file's nodes the delegate took.
        placement: None: benchmark_model prints how many operators the delegate took, not which.
    """

    runtime = RUNTIME
    gives_logits = False

    def __init__(self, board: AdbBoard, path: str, threads: int, printed: str) -> None:
        super().__init__(())
        sample_ns(printed)  # checks that it ran
        self.clock, self.path, self.threads = board, path, threads
        applied, replaced = _APPLIED.search(printed), _REPLACED.findall(printed)
        self.kernels = "not told"
        if applied:
            self.kernels = applied[1] if applied[2] == "completely" else f"{applied[1]}, builtin"
        own: dict[str, Any] = {}
        if replaced:
            own = {"delegated_nodes": sum(int(count) for count, _, _ in replaced), "nodes": int(replaced[0][1])}
        self.facts: Mapping[str, Any] = ChainMap(own, board.facts)

    def infer(self, batch: ByteArray) -> FloatArray:
        """Always raises `Unavailable`: benchmark_model gives no logits."""
        raise Unavailable("benchmark_model gives no logits, so files are not validated by adb", hint="squeeze-export bench FILE")


def sample_ns(printed: str) -> int:
    """The time of the one timed inference in the output of `benchmark_model`.

    Raises:
        Refused: the output does not hold it.
    """
    runs = _RUN.split(printed)
    found = _SAMPLE.search(runs[2]) if len(runs) == 3 else None  # the start, the warm-up, the timed run
    if found is None:
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        raise Refused(f"benchmark_model timed nothing: {lines[-1][:300] if lines else 'it printed nothing'}")
    return round(float(found[1]) * 1000)
