"""Files run on a board that a real sshd on loopback stands for."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from board_programs import wrapper

from squeeze_export import cli
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.pipeline import RunOptions, bench_files, open_network, validate_files
from squeeze_export.runtimes import runtime_named


def local_logits(artifact, runtime, pixels):
    session = runtime_named(runtime).open_session(artifact, device="cpu", threads=1)
    try:
        return session.infer(pixels), session.kernels, session.placement
    finally:
        session.close()


def summed(placement) -> tuple:
    """A placement without the names, some of which ONNX Runtime numbers anew each time."""
    types = sorted(name.split()[0] for name in placement.float_operators)
    return placement.operator_count, placement.integer_count, placement.integer_mac_share, types, len(placement.fallbacks)


def gone(pid: int, patience_s: float = 10) -> bool:
    """Whether a process of this machine has ended."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        with suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            if state != "Z":
                time.sleep(0.05)
                continue
        return True
    return False


@pytest.mark.parametrize(
    ("target", "asked", "runtime"),
    [
        ("tflite", "litert-builtin", "litert-builtin"),
        ("tflite", None, "litert"),
        ("onnx", None, "onnxruntime"),
        ("openvino", None, "openvino"),
    ],
)
def test_logits_and_placement_are_those_of_the_same_runtime_here(target, asked, runtime, loopback, pixels, request):
    artifacts = request.getfixturevalue(target)
    with loopback.reached() as board:
        assert os.listdir(loopback.temporary)  # the control of what is asserted at the end
        for artifact in artifacts.values():
            session = board.open_session(artifact, runtime=asked, device="cpu", threads=1)
            logits, kernels, placement = local_logits(artifact, runtime, pixels)
            np.testing.assert_array_equal(session.infer(pixels), logits)
            assert (session.runtime, session.kernels, summed(session.placement)) == (runtime, kernels, summed(placement))
            assert (session.device, session.evidence, session.threads) == ("cpu", "measured", 1)
            assert session.facts["architecture"] == os.uname().machine
            with pytest.raises(ValueError, match="a batch of"):
                session.infer(pixels[:, :8])
            session.close()
    assert loopback.left_behind() == []


def options(loopback, **changes) -> RunOptions:
    values = {"on": loopback.url, "ssh_config": loopback.config, "board_python": sys.executable, "rounds": 3}
    return RunOptions(**values | changes)


def test_files_are_timed_there_in_one_interleaved_run(loopback, tflite, monkeypatch):
    monkeypatch.setattr("squeeze_export.measure.latency.time.perf_counter_ns", None)  # this machine's clock is not looked at
    report = bench_files([tflite["fp32"].path, tflite["int8"].path], options=options(loopback))
    assert [row.runtime for row in report.measurements] == ["litert", "litert"]
    assert [len(row.latency.samples_ns) for row in report.measurements] == [3, 3]
    assert [row.latency.speedup is not None for row in report.measurements] == [False, True]
    assert all(row.facts["runtime_version"].startswith("ai_edge_litert ") and row.placement for row in report.measurements)
    assert len(report.verdicts) == 1
    assert loopback.left_behind() == []


def test_files_are_validated_there(loopback, tflite, tiny):
    network = open_network(tiny / "tiny.safetensors")
    here, there = (
        validate_files([tflite["int8"].path], network, tiny / "eval", options=chosen).measurements[0]
        for chosen in (RunOptions(), options(loopback))
    )
    assert here.accuracy is not None
    assert here.accuracy == there.accuracy


def test_the_command_line(loopback, tflite, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = ["--on", loopback.url, "--ssh-config", str(loopback.config), "--board-python", sys.executable, "--rounds", "2"]
    assert cli.run(["bench", str(tflite["int8"].path), *names]) == 0
    assert "ms" in capsys.readouterr().out
    assert cli.run(["tflite", "--no-bench", "--eval", "no-such-folder", *names, "--on", f"{loopback.url}1"]) == 2  # a port too high
    assert "--on ssh://user@host" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_every_target_and_what_no_board_runs(loopback, tiny, tmp_path, capsys):
    """Core ML's file is written and skipped: that is no failure."""
    names = ["--on", loopback.url, "--ssh-config", str(loopback.config), "--board-python", sys.executable, "--rounds", "2"]
    network = ["--int8", "--weights", str(tiny / "tiny.safetensors"), "--calib", str(tiny / "calib"), "--eval", str(tiny / "eval")]
    assert cli.run(["all", *network, *names, "--out", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["measurements"]
    assert {row["target"] for row in rows if row["status"] == "ok"} == {"tflite", "onnx", "openvino"}
    skipped = {(row["target"], row["reason"]) for row in rows if row["status"] == "skipped"}
    assert skipped == {("coreml", "coreml files are not run on boards")}
    assert len(rows) == 8
    assert loopback.left_behind() == []


# --- what goes wrong: a clear line, the exit code, and nothing left behind


def test_a_dead_host(loopback, tflite, capsys):
    command = ["bench", str(tflite["int8"].path), "--on", "ssh://127.0.0.1:1", "--ssh-config", str(loopback.config)]
    assert cli.run(command) == 3
    err = capsys.readouterr().err
    assert "error: the board `127.0.0.1` cannot be reached: " in err
    assert "hint: does `ssh -p 1 127.0.0.1` work?" in err


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"IdentityFile": "other"}, "accepts none of your keys", "ssh-copy-id"),
        ({"UserKnownHostsFile": "nothing"}, "the host key of the board `127.0.0.1` is not known", "compare it once: ssh -p "),
        ({"UserKnownHostsFile": "changed"}, "is not the one that is known", "somebody may be in between"),
    ],
)
def test_wrong_keys(loopback, change, message, hint):
    config = loopback.configured("changed-conf", **{option: loopback.folder / name for option, name in change.items()})
    with pytest.raises(Unavailable, match=message) as caught, loopback.reached(ssh_config=config):
        raise AssertionError("never reached")
    assert hint in caught.value.hint
    assert not (loopback.folder / "nothing").exists()  # the key was not taken up
    assert loopback.left_behind() == []


def test_a_configuration_that_is_not_there(loopback):
    with (
        pytest.raises(BadInput, match="is no ssh configuration file"),
        loopback.reached(ssh_config=Path("nowhere")),
    ):
        raise AssertionError("never reached")


@pytest.mark.parametrize(
    ("script", "message", "hint"),
    [
        (None, "has no `.*/no-such-python`", "--board-python"),
        (f'exec "{sys.executable}" -S "$@"', "the board's Python has no numpy", "pip install numpy"),
        ("exit 72", "is older than 3.7", "--board-python"),
    ],
)
def test_a_board_without_what_is_needed(loopback, tmp_path, script, message, hint):
    python = str(tmp_path / "no-such-python") if script is None else wrapper(tmp_path, "python", script)
    with pytest.raises(Unavailable, match=message) as caught, loopback.reached(python):
        raise AssertionError("never reached")
    assert hint in caught.value.hint
    assert loopback.left_behind() == []


def test_a_missing_runtime(loopback, tmp_path, tflite, capsys):
    hidden = "import sys; sys.modules.update(dict.fromkeys(['ai_edge_litert', 'tflite_runtime']))"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    python = wrapper(tmp_path, "python", f'PYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"')
    names = ["--on", loopback.url, "--ssh-config", str(loopback.config), "--board-python", python]
    assert cli.run(["bench", str(tflite["int8"].path), *names]) == 3
    err = capsys.readouterr().err
    assert "error: the board's Python has no `ai_edge_litert` or `tflite_runtime`, which opens tflite files" in err
    assert "hint: install it there (pip install ai-edge-litert)" in err
    assert loopback.left_behind() == []


def test_cpus_that_the_board_does_not_have(loopback):
    with pytest.raises(BadInput, match="cannot stay on the CPUs"), loopback.reached(cpus=(4000,)):
        raise AssertionError("never reached")


def test_no_temporary_folder(loopback):
    loopback.temporary.rmdir()
    try:
        with pytest.raises(Unavailable, match="cannot make a temporary folder: mktemp") as caught, loopback.reached():
            raise AssertionError("never reached")
    finally:
        loopback.temporary.mkdir()
    assert "disk full" in caught.value.hint


def test_a_file_that_the_runtime_refuses(loopback, tflite, tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(tflite["int8"].path.read_bytes()[:1000])
    with loopback.reached() as board:
        with pytest.raises(Refused, match="the board's runtime failed"):
            board.open_session(replace(tflite["int8"], path=path), runtime=None, device="cpu", threads=1)
        with pytest.raises(Unavailable, match="not on `cuda`"):
            board.open_session(tflite["int8"], runtime=None, device="cuda", threads=1)
        board.open_session(tflite["int8"], runtime=None, device="cpu", threads=1)  # it goes on
    assert loopback.left_behind() == []


def test_a_runner_that_is_killed_half_way(loopback, tflite, pixels):
    with loopback.reached() as board:
        session = board.open_session(tflite["int8"], runtime=None, device="cpu", threads=1)
        session.infer(pixels)
        os.kill(board.link.greeting["pid"], signal.SIGKILL)
        with pytest.raises(Refused, match=r"the runner on the board `127\.0\.0\.1` was ended by SIGKILL") as caught:
            session.infer(pixels)
        assert caught.value.exit_code == 4
        assert "out of memory" in caught.value.hint
    assert loopback.left_behind() == []


def test_a_shell_that_is_killed(loopback, tflite, pixels):
    """It can remove nothing then; the runner does, and ends only when it has."""
    with loopback.reached() as board:
        session = board.open_session(tflite["int8"], runtime=None, device="cpu", threads=1)
        session.infer(pixels)
        (folder,) = loopback.temporary.iterdir()
        for number in range(20_000):  # more than goes away while a process ends
            (folder / str(number)).touch()
        pid = board.link.greeting["pid"]
        os.kill(int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
        assert gone(pid)
    assert loopback.left_behind() == []
    with pytest.raises((Refused, Unavailable)):
        session.infer(pixels)


def test_a_connection_that_breaks_in_the_middle_of_work(loopback, tflite, pixels):
    """The runner is timing when it happens: it ends all the same."""
    with loopback.reached() as board:
        session = board.open_session(tflite["fp32"], runtime=None, device="cpu", threads=1)
        pid = board.link.greeting["pid"]

        def broken(what, done, total):
            board.link.process.kill()

        assert not gone(pid, patience_s=0.2)
        with pytest.raises(Unavailable, match=r"the connection to the board `127\.0\.0\.1` broke: ssh was ended by SIGKILL"):
            board.time([(session, pixels[:1])], warmup=1, rounds=1_000_000, progress=broken)
    assert gone(pid)
    assert loopback.left_behind() == []


def test_an_interrupted_job_leaves_nothing(loopback):
    seen = []

    def interrupted():
        with loopback.reached() as board:
            seen.append(board.link.greeting["pid"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gone(seen[0])
    assert loopback.left_behind() == []
