"""A worker that works, fails, hangs, lies or dies: each a clear error, and nothing of it left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import standin

from squeeze_export.errors import Refused, Unavailable
from squeeze_export.workers import process
from squeeze_export.workers.process import Worker, run_quietly


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "worker.py"
    path.write_text(standin.WORKER)
    return path


@pytest.fixture
def worker(script):
    with Worker(Path(sys.executable), script, tool="the stand-in") as running:
        yield running


def test_values_and_arrays_go_there_and_back(worker, capfd):
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    for repeat in range(2):  # it stays for the next call
        values, arrays = worker.ask("double", {"repeat": repeat, "word": "ü"}, {"pixels": pixels}, limit_s=60)
        assert values == {"seen": {"repeat": repeat, "word": "ü"}}
        np.testing.assert_array_equal(arrays["twice"], pixels * 2)
    assert capfd.readouterr() == ("", "")  # what it printed is kept from the user
    assert "more noise" in worker.printed()


def test_what_it_raises_is_one_line(worker):
    with pytest.raises(Refused, match=r"the stand-in failed: ValueError: no such layer"):
        worker.ask("refuse", limit_s=60)
    with pytest.raises(Refused, match="KeyError"):
        worker.ask("no such verb", limit_s=60)
    assert worker.ask("double", {}, {"pixels": np.ones(1)}, limit_s=60)[1]["twice"] == 2  # and it goes on


@pytest.mark.parametrize(
    ("verb", "told"),
    [
        ("crash", "ended with exit code 7: the last word"),
        ("leave", "ended with exit code 1: the last word"),  # which takes it a while
        ("kill", "ended by SIGKILL"),
    ],
)
def test_a_crash_is_told(worker, verb, told):
    with pytest.raises(Refused, match=told):
        worker.ask(verb, limit_s=60)
    with pytest.raises(Refused, match="ended"):
        worker.ask("double", limit_s=60)


def test_a_worker_that_hangs_is_ended(worker):
    start = time.monotonic()
    with pytest.raises(Refused, match=r"did not finish within 2 s, and was ended"):
        worker.ask("hang", limit_s=2)
    assert time.monotonic() - start < 30
    assert ended(int((worker.folder / "pid").read_text()))


@pytest.mark.parametrize("dies", [True, False])
def test_what_a_worker_started_ends_with_it(script, dies):
    """A child holds the worker's stdin and stdout open, which say nothing of the worker's end then."""
    with Worker(Path(sys.executable), script, tool="the stand-in") as worker:
        if dies:
            with pytest.raises(Refused, match="ended by SIGKILL"):
                worker.ask("orphan", {"dies": True}, limit_s=600)
        else:
            worker.ask("orphan", {"dies": False}, limit_s=60)
        child = int((worker.folder / "pid").read_text())
    assert ended(child)


def test_it_has_no_network(worker):
    """A socket that does listen is not reached: telemetry would not be either."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(Refused, match="ConnectionError: toolchains have no network"):
            worker.ask("call_home", {"port": server.getsockname()[1]}, limit_s=60)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("answer", ["nonsense", "[]", '{"values": {}}', '{"values": {}, "arrays": ["../x"]}', "{", "null"])
def test_an_answer_that_cannot_be_read(worker, monkeypatch, answer):
    if answer == "nonsense":
        with pytest.raises(Refused, match="cannot be read"):
            worker.ask("nonsense", limit_s=60)
        return
    monkeypatch.setattr(worker, "read", lambda name: answer.encode())
    with pytest.raises(Refused, match="cannot be read"):
        worker.ask("double", {}, {"pixels": np.ones(1)}, limit_s=60)


def test_an_array_of_objects_is_refused(worker, tmp_path, monkeypatch):
    """A pickle inside a .npy file would run code here."""
    fired = tmp_path / "fired"

    class Odd:
        def __reduce__(self):
            return (Path.touch, (fired,))

    with (worker.folder / "out-bad.npy").open("wb") as file:
        np.lib.format.write_array(file, np.array([Odd()], object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        worker._array("bad")
    assert not fired.exists()


def test_a_link_is_no_product(worker):
    worker.ask("leave_link", limit_s=60)
    with pytest.raises(Refused, match="no readable file"):
        worker.read("product")
    with pytest.raises(Refused, match="no readable file"):
        worker.read("../product")
    (worker.folder / "plain").write_bytes(b"12")
    assert worker.read("plain") == b"12"


def test_a_file_too_large_is_no_product(worker, monkeypatch):
    monkeypatch.setattr(process, "MAX_FILE_BYTES", 10)
    (worker.folder / "large").write_bytes(bytes(11))
    with pytest.raises(Refused, match="no readable file"):
        worker.read("large")


def test_it_runs_apart(script, monkeypatch):
    """In its own folder, with another home, and without the caller's search path."""
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    with Worker(Path(sys.executable), script, tool="the stand-in") as worker:
        values, _ = worker.ask("environment", limit_s=60)
        assert Path(values["folder"]) == worker.folder
        assert Path(values["variables"]["HOME"]).parent == worker.folder
    assert values["variables"]["https_proxy"] == "http://127.0.0.1:9"
    assert "PYTHONPATH" not in values["variables"]
    assert "/somewhere" not in values["path"]


def test_what_is_printed_is_bounded(worker):
    worker.ask("flood", {"lines": 2000}, limit_s=60)
    assert 0 < sum(len(line) for line in worker.printed()) <= process.MAX_PRINTED_BYTES
    worker.ask("flood", {"lines": 1}, limit_s=60)
    assert (worker.folder / "output.txt").stat().st_size < 2000  # not kept for the next call


def test_nothing_is_left(script):
    running = Worker(Path(sys.executable), script, tool="the stand-in")
    running.ask("double", {}, {"pixels": np.ones(1)}, limit_s=60)
    folder = running.folder
    running.close()
    assert not folder.exists()
    running.close()


def test_a_command_and_what_it_started_are_ended(tmp_path):
    started = tmp_path / "pid"
    with pytest.raises(subprocess.TimeoutExpired):
        run_quietly(["sh", "-c", f"sleep 600 & echo $! > {started}; wait"], cwd=tmp_path, env=os.environ, limit_s=1)
    assert ended(int(started.read_text()))


def test_a_python_that_has_gone(tmp_path):
    with pytest.raises(Unavailable, match="the Python of `x 1` cannot be started: No such file") as caught:
        Worker(tmp_path / "python", tmp_path / "script.py", tool="x 1")
    assert "install it again" in caught.value.hint


def ended(pid: int, tries: int = 100) -> bool:
    """Within a tenth of a second a try; a zombie that nobody waits for has ended too."""
    for _ in range(tries):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_ended_tells_a_process_that_runs():
    """Negative control."""
    assert not ended(os.getpid(), tries=3)
