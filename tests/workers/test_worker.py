"""A worker that works, fails, hangs, lies or dies: each a clear error, and nothing of it left."""

from __future__ import annotations

import json
import os
import site
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import standin

from squeeze_export import errors
from squeeze_export.errors import BadInput, Refused
from squeeze_export.workers import process, serve
from squeeze_export.workers import worker as worker_module
from squeeze_export.workers.process import MAX_REASON_CHARACTERS
from squeeze_export.workers.worker import Failed, Late, Worker, call


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "code.py"
    path.write_text(standin.WORKER)
    return path


OURS, ANOTHER = {}, {"python": Path(sys.executable)}


@pytest.fixture(params=[OURS, ANOTHER], ids=["our Python", "another Python"])
def worker(script, request):
    with Worker(script, tool="the stand-in", hint="try again", **request.param) as running:
        yield running


@pytest.fixture
def ours(script):
    with Worker(script, tool="the stand-in", hint="try again") as running:
        yield running


@pytest.fixture
def another(script):
    with Worker(script, tool="the stand-in", **ANOTHER) as running:
        yield running


# --- what comes back


def test_values_and_arrays_go_there_and_back(worker, capfd):
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    for repeat in range(2):  # it stays for the next call
        values, arrays = worker.ask("double", {"repeat": repeat, "word": "ü"}, {"pixels": pixels}, limit_s=60)
        assert values == {"seen": {"repeat": repeat, "word": "ü"}}
        np.testing.assert_array_equal(arrays["twice"], pixels * 2)
    assert capfd.readouterr() == ("", "")  # what it printed is kept from the user
    assert "more noise" in worker.printed()


@pytest.mark.parametrize("array", [np.float32(3), np.zeros((0, 2)), np.asfortranarray(np.arange(6.0).reshape(2, 3))])
def test_arrays_of_any_form(ours, array):
    found = ours.ask("double", {}, {"pixels": array})[1]["twice"]
    np.testing.assert_array_equal(found, 2 * np.asarray(array))
    assert found.shape == np.shape(array)


def test_what_a_pipe_does_not_take_goes_there_as_well(ours):
    assert ours.ask("double", {"long": "x" * 200_000}, {"pixels": np.ones(1)})[0]["seen"]["long"] == "x" * 200_000


def test_an_array_that_was_handed_over_stays_as_it_was(ours):
    for value in (1, 7):
        assert ours.ask("keep", {}, {"pixels": np.full(100_000, value)})[0] == {"sum": 100_000}


def test_several_work_at_once(script):
    with Worker(script, tool="a") as first, Worker(script, tool="b") as second:
        for number, one in enumerate((first, second)):
            one.send("double", {"number": number}, {"pixels": np.ones(1)})
        assert [one.receive()[0]["seen"]["number"] for one in (first, second)] == [0, 1]


def test_one_call_of_a_modules_function():
    values, arrays = call(json_of, {"a": 1}, {"b": np.arange(3)}, tool="json", variables={"SOME": "set"})
    assert values == {"a": 1, "pid": values["pid"], "variable": "set"}
    assert values["pid"] != os.getpid()
    np.testing.assert_array_equal(arrays["b"], [0, 1, 2])


def json_of(values, arrays):
    return {**values, "pid": os.getpid(), "variable": os.environ["SOME"]}, arrays


def test_nobody_reads_the_requests_but_the_worker(worker):
    assert worker.ask("read_stdin", limit_s=60)[0] == {"read": ""}


# --- what goes wrong


def test_what_it_raises_is_one_line(worker):
    with pytest.raises(Failed, match=r"^the stand-in failed: ValueError: no such layer$"):
        worker.ask("refuse", limit_s=60)
    with pytest.raises(Failed, match="AttributeError"):
        worker.ask("no_such_function", limit_s=60)
    assert worker.ask("double", {}, {"pixels": np.ones(1)}, limit_s=60)[1]["twice"] == 2  # and it goes on


@pytest.mark.parametrize("kind", ["BadInput", "Unavailable", "Inapplicable", "Refused", "GateFailed", "GateUndecided"])
def test_an_error_of_ours_comes_back_as_it_is(ours, kind):
    with pytest.raises(getattr(errors, kind), match=r"^`this`$") as caught:
        ours.ask("refuse_as_ours", {"kind": kind})
    assert (type(caught.value).__name__, caught.value.hint) == (kind, "that")


def test_a_kind_of_error_that_has_no_name_there_is_the_one_it_is_a_kind_of():
    class NotAll(Refused):
        pass

    assert serve.failure(NotAll("`x`", hint="y")) == {"kind": "Refused", "message": "`x`", "hint": "y"}


def test_a_long_failure_is_cut(ours):
    with pytest.raises(Failed) as caught:
        ours.ask("refuse_at_length")
    assert len(caught.value.reason) < MAX_REASON_CHARACTERS + 50
    assert "`" not in caught.value.reason
    assert caught.value.hint == "try again"


@pytest.mark.parametrize(
    ("verb", "told"),
    [
        ("crash", "exit code 7, the last word"),
        ("leave", "exit code 1, the last word"),  # which takes it a while
        ("kill", "ended by SIGKILL"),
        ("real_time_signal", "ended by signal 35"),
    ],
)
def test_a_crash_is_told(worker, verb, told):
    with pytest.raises(Failed, match=f"^the stand-in failed: {told}$"):
        worker.ask(verb, limit_s=60)
    with pytest.raises(Failed, match=told):
        worker.ask("double", limit_s=60)


def test_a_module_that_is_not_there(tmp_path):
    with (
        Worker("no_such_module", tool="the stand-in") as worker,
        pytest.raises(Failed, match=r"exit code 1, ModuleNotFoundError: No module named 'no_such_module'"),
    ):
        worker.ask("double")


def test_a_full_disk_is_told(worker, monkeypatch):
    with pytest.raises(BadInput, match=r"^the stand-in needs more space than the temporary folder has$") as caught:
        worker.ask("full", limit_s=60)
    assert "TMPDIR" in caught.value.hint

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(BadInput, match="more space"):
        worker.ask("double", {}, {"pixels": np.ones(1)})


def test_a_worker_that_hangs_is_ended(worker):
    start = time.monotonic()
    with pytest.raises(Late, match=r"^the stand-in did not finish within 2 s$"):
        worker.ask("hang", limit_s=2)
    assert time.monotonic() - start < 30
    assert ended(int((worker.folder / "pid").read_text()))


def test_one_that_heeds_no_interrupt_is_ended_by_force(ours, monkeypatch):
    monkeypatch.setattr(process.Process.end, "__defaults__", (0.2,))
    with pytest.raises(Late):
        ours.ask("stubborn", limit_s=1)
    assert ended(int((ours.folder / "pid").read_text()))


def test_an_interrupt_here_lets_it_clean_up(script, tmp_path):
    """What a job has begun in the user's folder is removed, as ^C would have it."""
    file = tmp_path / "begun"
    with Worker(script, tool="the stand-in") as worker:
        worker.send("interrupted", {"file": str(file)})
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert file.exists()
    assert not file.exists()
    assert ended(worker.pid)


@pytest.mark.skipif(not hasattr(os, "getsid"), reason="no sessions")
def test_a_terminals_interrupt_reaches_this_process_alone(worker):
    """A child is told by us, once: a second ^C would interrupt what it does about the first."""
    assert os.getsid(worker.pid) != os.getsid(0)


@pytest.mark.parametrize("dies", [True, False])
def test_what_a_worker_started_ends_with_it(script, dies):
    """A child holds the worker's stdin and stdout open, which say nothing of the worker's end then."""
    with Worker(script, tool="the stand-in") as worker:
        if dies:
            with pytest.raises(Failed, match="ended by SIGKILL"):
                worker.ask("orphan", {"dies": True}, limit_s=600)
        else:
            worker.ask("orphan", {"dies": False}, limit_s=60)
        child = int((worker.folder / "pid").read_text())
    assert ended(child)


def test_nothing_is_left(script, tmp_path, monkeypatch):
    own = tmp_path / "temporary"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    threads = threading.active_count()
    for options in ({"keep_private": True}, {}):
        running = Worker(script, tool="the stand-in", **options)
        running.ask("litter", {"home": "keep_private" in options})
        assert list(own.iterdir()) == [running.folder]
        running.close()
        assert ended(running.pid)
        running.close()
    assert list(own.iterdir()) == []
    assert threading.active_count() == threads


# --- an answer that is none


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"values": {}}',
        '{"values": [], "arrays": []}',
        '{"values": {}, "arrays": ["../x"]}',
        "null",
        '{"kind": "SystemExit", "message": "", "hint": null}',
        "[" * 100_000,
    ],
)
def test_an_answer_that_cannot_be_read(ours, line):
    with pytest.raises(Failed, match="its answer cannot be read"):
        ours.ask("lie", {"line": line})


def test_an_answer_of_other_values_is_an_error_there(worker):
    with pytest.raises(Failed, match="TypeError"):
        worker.ask("nonsense", limit_s=60)


def test_an_array_of_objects_is_refused(ours, tmp_path):
    """A pickle inside a .npy file would run code here."""
    fired = tmp_path / "fired"

    class Odd:
        def __reduce__(self):
            return (Path.touch, (fired,))

    with (ours.folder / "out-bad.npy").open("wb") as file:
        np.lib.format.write_array(file, np.array([Odd()], object), allow_pickle=True)
    with pytest.raises(Failed, match="Python objects"):
        ours.ask("lie", {"line": '{"values": {}, "arrays": ["bad"]}'})
    assert not fired.exists()


def test_a_link_is_no_product(ours):
    ours.ask("leave_link")
    with pytest.raises(Refused, match="no readable file"):
        ours.read("product")
    with pytest.raises(Refused, match="no readable file"):
        ours.read("../product")
    (ours.folder / "plain").write_bytes(b"12")
    assert ours.read("plain") == b"12"


def test_a_file_too_large_is_no_product(ours, monkeypatch):
    monkeypatch.setattr(worker_module, "MAX_FILE_BYTES", 10)
    (ours.folder / "large").write_bytes(bytes(11))
    with pytest.raises(Refused, match="no readable file"):
        ours.read("large")


# --- where it runs


def test_another_python_has_nothing_of_ours(script, monkeypatch):
    """In its own folder, with another home, without the caller's search path, and with a proxy that is none."""
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    with Worker(script, tool="the stand-in", **ANOTHER) as worker:
        values, _ = worker.ask("environment", limit_s=60)
        assert Path(values["folder"]) == worker.folder
        assert Path(values["variables"]["HOME"]).parent == worker.folder
    assert values["variables"]["https_proxy"] == "http://127.0.0.1:9"
    assert "PYTHONPATH" not in values["variables"]
    assert "/somewhere" not in values["path"]


def test_another_python_has_no_network(another):
    """A socket that does listen is not reached: telemetry would not be either."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(Failed, match="ConnectionError: toolchains have no network"):
            another.ask("call_home", {"port": server.getsockname()[1]}, limit_s=60)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_our_python_finds_what_this_process_finds(script, tmp_path, monkeypatch):
    """And not what lies in the folder that the user stands in: a `numpy.py` among somebody's photographs is not run."""
    (tmp_path / "numpy.py").write_text("raise RuntimeError('run')")
    (tmp_path / "packages").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.chdir(tmp_path)
    with Worker(script, tool="the stand-in", cwd=tmp_path, variables={"SOME": "set"}) as worker:
        values, _ = worker.ask("environment")
        worker.ask("double", {}, {"pixels": np.ones(1)})
        assert values["path"] == sys.path
        assert (values["folder"], values["variables"]["SOME"]) == (str(tmp_path), "set")
        assert Path(values["variables"]["TMPDIR"]).parent == worker.folder
        assert values["variables"].get("HOME") == os.environ.get("HOME")


def test_what_a_vendors_tool_is_told(script):
    with Worker(script, tool="the stand-in", keep_private=True) as worker:
        variables = worker.ask("environment")[0]["variables"]
        assert Path(variables["HOME"]).parent == worker.folder
    assert variables["TMPDIR"] == variables["HOME"]
    assert (variables["PYTHONHASHSEED"], variables["NNCF_CI"], variables["DO_NOT_TRACK"]) == ("0", "1", "1")
    assert variables["PYTHONUSERBASE"] == site.getuserbase()  # packages that the user installed are still found


def test_what_is_printed_is_bounded(worker):
    worker.ask("flood", {"lines": 2000}, limit_s=60)
    assert 0 < len(worker.printed()) <= process.MAX_PRINTED_BYTES
    worker.ask("flood", {"lines": 1}, limit_s=60)
    assert (worker.folder / "output.txt").stat().st_size < 2000  # not kept for the next call


def test_a_python_that_has_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        Worker("code.py", tool="x 1", python=tmp_path / "python")
    assert list(tmp_path.iterdir()) == []


# --- the other side, in this process


@pytest.mark.parametrize("file", [False, True])
def test_the_other_side(script, tmp_path, monkeypatch, file):
    """Over two pipes of the test's own; a long request lies in a file."""
    request = json.dumps({"verb": "double", "values": {"a": 1}, "arrays": ["pixels"]})
    np.save(tmp_path / "in-pixels.npy", np.ones(2))
    (tmp_path / "request.json").write_text(request)
    found = serve.answer(serve.called(str(script)), tmp_path, json.loads(request))
    assert found == {"values": {"seen": {"a": 1}}, "arrays": ["twice"]}
    np.testing.assert_array_equal(np.load(tmp_path / "out-twice.npy"), [2, 2])
    assert serve.called("json") is json
    assert serve.failure(KeyError("w")) == {"error": "KeyError: 'w'"}
    assert serve.failure(OSError(28, "full")) == {"full": True}


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
