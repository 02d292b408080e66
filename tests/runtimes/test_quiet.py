"""What libraries print in C++ is kept out of the user's stderr, and kept for the error message."""

from __future__ import annotations

import os
import sys

import pytest

from squeeze_export.runtimes.quiet import MAX_KEPT_CHARACTERS, lower_log_levels, quiet, reason


def test_quiet_keeps_what_was_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet() as outer:
        os.write(2, b"INFO: hello\n\n")
        with quiet() as inner:
            os.write(2, b"ERROR: deep\n")
    os.write(2, b"after\n")
    assert (outer, inner) == (["INFO: hello"], ["ERROR: deep"])
    assert capfd.readouterr().err == "after\n"
    assert reason(ValueError("bad\nfile"), inner) == "bad file ERROR: deep"
    assert reason(ValueError(), inner) == "ValueError ERROR: deep"
    assert len(reason(ValueError("bad"), ["x" * 1000])) == MAX_KEPT_CHARACTERS + 4


def test_quiet_restores_stderr_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), quiet():
        raise KeyError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_quiet_lives_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(descriptor: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    with quiet() as captured:
        pass
    assert captured == []
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", None)
    with quiet() as captured:
        os.write(2, b"hello\n")
    assert captured == ["hello"]


def test_the_users_log_level_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.delenv("GLOG_minloglevel", raising=False)
    lower_log_levels()
    assert [os.environ[name] for name in ("TF_CPP_MIN_LOG_LEVEL", "GLOG_minloglevel")] == ["0", "3"]


def test_stdout_is_kept_too_where_that_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet(stdout=True) as printed:
        os.write(1, b"result?\n")
        os.write(2, b"INFO: hello\n")
    os.write(1, b"result\n")
    assert printed == ["result?", "INFO: hello"]
    assert capfd.readouterr() == ("result\n", "")
