"""The runner by itself: what is sent to the board, without a board."""

import ast
import errno
import io
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from board_programs import wrapper

from squeeze_export.errors import Refused, Unavailable
from squeeze_export.measure import latency
from squeeze_export.pipeline.sessions import read_records
from squeeze_export.remote import board_engines, board_facts, runner
from squeeze_export.remote.link import Link
from squeeze_export.remote.session import Board, plain_facts, state_facts
from squeeze_export.remote.ssh import SOURCES, START, remote_command

FOLDER = Path(runner.__file__).parent
FREE = {"numpy", "ai_edge_litert", "tflite_runtime", "onnxruntime", "openvino"}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_sent_stands_alone_and_is_old_python(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    names = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= FREE | set(sys.stdlib_module_names)
    outside = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not {alias.name for node in outside for alias in node.names} & FREE  # a missing one is told, not raised at the start


def test_newer_python_is_found():
    """Negative control."""
    with pytest.raises(SyntaxError):
        ast.parse("if (a := 1):\n    pass", feature_version=(3, 7))


def test_the_orders_are_those_of_this_machine():
    for count in range(1, 7):
        assert runner.balanced_orders(count) == latency.balanced_orders(count)


# --- emulation


@pytest.mark.parametrize(
    ("machine", "kernel", "cpuinfo", "emulated"),
    [
        ("aarch64", "aarch64", "", False),
        ("x86_64", "x86_64", "vendor_id\t: GenuineIntel\n", False),
        ("armv7l", "aarch64", "", False),  # 32-bit userland on a 64-bit kernel runs on the processor itself
        ("i686", "x86_64", "vendor_id\t: GenuineIntel\n", False),
        ("aarch64", "x86_64", "", True),
        ("x86_64", "aarch64", "", True),
        ("riscv64", "x86_64", "", True),
        ("aarch64", "", "vendor_id\t: GenuineIntel\n", True),  # a kernel before 6.1 does not tell
        ("aarch64", "", "CPU implementer\t: 0x41\n", False),
    ],
)
def test_emulation_is_seen(machine, kernel, cpuinfo, emulated):
    assert bool(board_facts.emulated_by(machine, kernel, cpuinfo)) is emulated


def test_this_machine_does_not_emulate_itself():
    assert board_facts.emulated() == ""


# --- facts


def test_facts_leave_out_what_cannot_be_read(monkeypatch):
    monkeypatch.setattr(board_facts, "read_text", lambda path: "")
    monkeypatch.setattr(board_facts.glob, "glob", lambda pattern: [])
    assert set(board_facts.facts()) == {"architecture", "logical_cores", "usable_cores", "kernel", "python"}
    assert board_facts.state() == {}


def test_facts_of_a_raspberry_pi(monkeypatch, tmp_path):
    files = {
        "/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n",
        "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0",
        "/proc/meminfo": "MemTotal:        8000000 kB\n",
        "/cpu0/cpufreq/scaling_governor": "ondemand",
        "/cpu0/cpufreq/cpuinfo_max_freq": "2400000",
        "/cpu0/cpufreq/scaling_cur_freq": "1500000",
        "/thermal_zone0/temp": "61250",
        "/thermal_zone0/type": "cpu-thermal",
        "/get_throttled": "50000",
    }

    def read(path):
        return next((text for end, text in files.items() if path.endswith(end)), "")

    def found(pattern):
        ends = {"scaling_cur_freq": "/cpu0/cpufreq/scaling_cur_freq", "cpuinfo_max_freq": "/cpu0/cpufreq/cpuinfo_max_freq"}
        ends |= {"thermal_zone*": "/thermal_zone0", "get_throttled": "/get_throttled"}
        return [path for end, path in ends.items() if pattern.endswith(end)]

    monkeypatch.setattr(board_facts, "read_text", read)
    monkeypatch.setattr(board_facts.glob, "glob", found)
    facts = plain_facts(board_facts.facts())
    expected = {
        "board": "Raspberry Pi 5 Model B Rev 1.0",
        "isa": ["asimd", "asimddp"],
        "governor": "ondemand",
        "max_frequency_mhz": 2400.0,
        "frequency_mhz": 1500.0,
        "memory_bytes": 8_192_000_000,
        "temperatures_c": {"0 cpu-thermal": 61.25},
        "raspberry_pi_throttled": "50000",
        "cpu_part": "0xd0b",
    }
    assert expected.items() <= facts.items()
    assert "throttle_count" not in facts
    del files["/get_throttled"]
    monkeypatch.setattr(board_facts.glob, "glob", lambda pattern: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "raspberry_pi_throttled" not in board_facts.state()
    wrapper(tmp_path, "vcgencmd", "echo throttled=0x50005")
    assert board_facts.state() == {"raspberry_pi_throttled": "50005"}


def test_a_hostile_boards_facts_are_bounded():
    told = {
        "board": "a\n" * 1000,
        "memory_bytes": "many",
        "isa": ["x"] * 1000,
        "user": "root",
        "temperatures_c": {"z": float("nan")},
    }
    told |= {"logical_cores": True, "frequency_mhz": float("inf")}
    facts = plain_facts(told)
    assert set(facts) == {"board", "isa", "temperatures_c"}
    assert (len(facts["board"]), len(facts["isa"]), facts["temperatures_c"], plain_facts(None)) == (200, 32, {}, {})


def test_throttling():
    before = {"throttle_count": 3, "temperatures_c": {"0": 50.0}}
    calm = {"before": before, "after": before, "frequencies_mhz": [2400.0, 2400.0]}
    assert state_facts(calm, 2400.0) == {
        "temperatures_c": {"0": 50.0},
        "temperatures_c_after": {"0": 50.0},
        "frequency_mhz_low": 2400.0,
        "frequency_mhz_high": 2400.0,
        "below_max_frequency": 0.0,
        "throttled": False,
    }
    hot = {"before": before, "after": {"throttle_count": 4}, "frequencies_mhz": [2400.0, 1500.0, 1500.0, 1500.0]}
    assert state_facts(hot, 2400.0)["throttled"] is True
    assert state_facts(hot, 2400.0)["below_max_frequency"] == 0.75
    assert "below_max_frequency" not in state_facts(hot, None)
    # Bits 16 and up tell of what was since the board started; 0 to 3 of now.
    for bits, throttled in (("50000", False), ("50005", True), ("e0008", True)):
        assert state_facts({"after": {"raspberry_pi_throttled": bits}}, None)["throttled"] is throttled
    assert state_facts({"after": {"raspberry_pi_throttled": "none"}}, None) == {"raspberry_pi_throttled": "none"}
    assert state_facts({}, None) == {}


# --- answers


class Steps:
    """A clock that goes on by 7 ns whenever it is read."""

    now = 0

    def __call__(self):
        self.now += 7
        return self.now


class Engine:
    threads = 1

    def __init__(self, *_):
        self.calls = 0

    def infer(self, batch):
        self.calls += 1
        return np.zeros((len(batch), 2), np.float32)

    def records(self):
        return {}


@pytest.fixture
def facts():
    """Stands for `board_facts` on a board with LiteRT that is not emulated."""
    return SimpleNamespace(
        installed=lambda modules: {m: "1" for m in modules if m == "ai_edge_litert"},
        emulated=lambda: "",
        facts=dict,
        state=dict,
        fastest_mhz=lambda name: 1000.0,
    )


def opening(number=0, target="tflite", runtime=None):
    return {"do": "open", "id": number, "target": target, "runtime": runtime, "threads": 1, "files": [["a", 3]]}


def test_timing_is_interleaved_and_keeps_every_sample(facts):
    told, engines = [], []

    def engine(*arguments):
        engines.append(Engine())
        return engines[-1]

    served = runner.Runner(told.append, facts, {"tflite": engine}, Steps())
    for number in (0, 1):
        assert served.answer(opening(number), b"abc")[0]["runtime"] == "litert"
    request = {"do": "time", "sessions": [[0, [1, 2, 2, 3]], [1, [2, 2, 2, 3]]], "warmup": 3, "rounds": 4}
    answer, _ = served.answer(request, bytes(36))
    assert answer["samples_ns"] == [[7] * 4, [7] * 4]
    assert answer["frequencies_mhz"] == [1000.0] * 4
    assert [entry.calls for entry in engines] == [7, 7]
    assert {"progress": 0, "total": 4} in told


def test_an_emulated_board_refuses_to_be_timed(facts):
    facts.emulated = lambda: "a program for aarch64 on a kernel for x86_64"
    served = runner.Runner(list, facts, {"tflite": Engine})
    served.answer(opening(), b"abc")
    with pytest.raises(runner.Refusal, match="an emulated board is not timed"):
        served.answer({"do": "time", "sessions": [[0, [1, 2, 2, 3]]], "warmup": 0, "rounds": 1}, bytes(12))


@pytest.mark.parametrize(
    ("target", "runtime", "message"),
    [
        ("onnx", None, "has no `onnxruntime`, which opens onnx files"),
        ("tflite", "tflite-runtime", "has no `tflite_runtime`"),
        ("tflite", "openvino", "`openvino` is not run on boards"),
        ("coreml", None, "`coreml` is not run on boards"),
    ],
)
def test_a_missing_runtime_is_never_another_one(facts, target, runtime, message):
    with pytest.raises(runner.Refusal, match=message):
        runner.Runner(list, facts, {}).answer(opening(0, target, runtime), b"abc")


def test_a_disk_that_fills_while_onnx_runtime_writes_its_profile(onnx, monkeypatch, tmp_path):
    engine = board_engines.Onnx({"net.onnx": onnx["int8"].path.read_bytes()}, "onnxruntime", False, 1)
    assert engine.records()["events"]
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):  # and not another folder
        engine.records()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(board_engines.os, "listdir", lambda folder: [str(tmp_path / "cut")])
    (tmp_path / "cut").write_text('[{"cat": "Node", "na')
    with pytest.raises(OSError, match="profile is cut short") as caught:
        engine.records()
    assert runner.failure(caught.value)["message"].startswith("the board's disk is full")


def test_what_is_told_of_an_error():
    assert runner.failure(OSError(errno.ENOSPC, "No space left on device", "profile"))["error"] == "unavailable"
    assert "disk is full" in runner.failure(OSError(errno.ENOSPC, "No space left"))["message"]
    assert runner.failure(OSError(errno.EIO, "x"))["error"] == "refused"
    assert runner.failure(MemoryError())["error"] == "unavailable"
    assert runner.failure(RuntimeError("bad\n model"))["message"] == "bad model"


def test_frames():
    data = runner.frame({"do": "x"}, b"12")
    assert runner.read_frame(io.BytesIO(data)) == ({"do": "x"}, b"12")
    for cut in (0, 4, 9, len(data) - 1):
        assert runner.read_frame(io.BytesIO(data[:cut])) is None
    assert runner.read_frame(io.BytesIO(b"\xff" * 8)) is None


# --- the other side's view of a board that misbehaves


def linked(program: str, limit_s: float = 20) -> Link:
    def explain(code, printed):
        return Refused(f"ended with {code}: {printed.strip()}")

    start = f"import sys, time, json, struct; o = sys.stdout.buffer; M = {runner.MARK!r}\n"
    start += "def f(c, b=b''):\n    t = json.dumps(c).encode(); o.write(struct.pack('>II', len(t), len(b)) + t + b); o.flush()\n"
    return Link([sys.executable, "-S", "-c", start + program], b"", explain=explain, name="the board `b`", limit_s=limit_s)


@pytest.mark.parametrize(
    ("program", "limit_s", "kind", "message"),
    [
        ("sys.exit('no good')", 20, Refused, "ended with 1: no good"),
        ("o.write(b'x' * 100000); o.flush(); time.sleep(60)", 20, Refused, "prints too much"),
        ("time.sleep(60)", 0.3, Unavailable, "gave no answer within `0.3` s"),
        ("o.write(M + b'\\xff' * 8); o.flush(); time.sleep(60)", 20, Refused, "more than the answer can have"),
        ("o.write(M + struct.pack('>II', 3, 0) + b'[1]'); o.flush(); time.sleep(60)", 20, Refused, "cannot be read"),
        ("o.write(M); f({'error': 'unavailable', 'message': 'no numpy'})", 20, Unavailable, "no numpy"),
    ],
)
def test_a_board_that_does_not_greet(program, limit_s, kind, message):
    with pytest.raises(kind, match=message):
        linked(program, limit_s)


def test_what_a_login_script_prints_is_passed_over():
    link = linked("print('Welcome to board'); sys.stdout.flush(); o.write(M); f({'hello': 1}); sys.stdin.read()")
    assert link.greeting == {"hello": 1}
    link.close()
    link.close()


def test_a_board_that_falls_silent_is_ended():
    link = linked("o.write(M); f({'hello': 1}); time.sleep(60)")
    with pytest.raises(Unavailable, match="gave no answer within"):
        link.ask({"do": "infer"}, limit_s=0.3)
    with pytest.raises(Unavailable):
        link.ask({"do": "infer"}, limit_s=0.3)
    link.close()


def test_why_a_board_was_given_up_is_told_again():
    link = linked("o.write(M); f({'hello': 1}); f({'progress': 1}); o.write(struct.pack('>II', 9, 9)); o.flush(); sys.stdin.read()")
    for _ in range(2):
        with pytest.raises(Refused, match=r"sent `9` and `9` bytes, more than the answer can have"):
            link.ask({"do": "infer"}, limit_s=20)
    link.close()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (struct.pack(">II", 3, 0) + b"{x}", ["refused"]),  # no JSON
        (b"", []),
    ],
)
def test_a_runner_whose_stdin_makes_no_sense_ends_and_removes_its_folder(sent, told, tmp_path):
    """In a process of its own: it ends itself by force."""
    folder = tmp_path / "folder"
    folder.mkdir()
    program = (
        "import sys, threading, types\n"
        "from squeeze_export.remote import runner\n"
        "facts = types.SimpleNamespace(installed=lambda names: {}, emulated=lambda: None, facts=dict)\n"
        "threading.Thread(target=threading.Event().wait, daemon=False).start()\n"  # keeps the process, as a computing thread would
        "runner.serve(sys.stdin.buffer, sys.stdout.buffer, facts, {}, None, sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], input=sent, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    source = io.BytesIO(done.stdout.partition(runner.MARK)[2])
    frames = iter(lambda: runner.read_frame(source), None)
    assert [content.get("error") for content, _ in frames] == [None, *told]
    assert not folder.exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("{'runtime': 'litert'}", "what the board reports about `net.int8.tflite` cannot be read: KeyError"),
        ("{'runtime': 'litert', 'records': {'nodes': 3, 'tensors': [], 'inputs': []}}", "cannot be read"),
    ],
)
def test_records_that_make_no_sense_are_refused(tflite, answer, message):
    board = Board(linked(f"o.write(M); f({{'hello': 1}}); f({answer}); sys.stdin.read()"), read_records)
    with pytest.raises(Refused, match=message):
        board.open_session(tflite["int8"], runtime=None, device="cpu", threads=1)
    board.close()


def test_the_start_is_one_line():
    """It goes through login shells, some of which take no line ends."""
    assert "\n" not in START


@pytest.mark.parametrize("python", ["bin/python", "~/bin/python", "{}/bin/python", "python"])
def test_names_of_the_boards_python(python, tmp_path):
    """From where a login begins, though it is run in a folder of its own."""
    (tmp_path / "bin").mkdir()
    wrapper(tmp_path / "bin", "python", 'echo "ran in $(basename "$PWD" | cut -c -15) as $1"')
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    command = ["sh", "-c", remote_command(python.format(tmp_path), None)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("ran in squeeze-export. as -c\n", "", 0)
    assert os.listdir(tmp_path) == ["bin"]


def test_engines_of_every_target():
    assert set(board_engines.ENGINES) == {target for target, _ in runner.RUNTIMES.values()}
