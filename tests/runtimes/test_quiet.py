"""What libraries print in C++ is kept out of the user's stderr, and kept for the error message."""

from __future__ import annotations

import os
import sys

import pytest

from squeeze_export.runtimes.quiet import MAX_KEPT_CHARACTERS, Captured, lower_log_levels, quiet


def test_quiet_keeps_what_was_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet() as outer:
        os.write(2, b"INFO: hello\n\n")
        with quiet() as inner:
            os.write(2, b"ERROR: deep\n")
    os.write(2, b"after\n")
    assert (outer.lines, inner.lines) == (["INFO: hello"], ["ERROR: deep"])
    assert capfd.readouterr().err == "after\n"
    assert inner.reason(ValueError("bad\nfile")) == "bad file ERROR: deep"
    assert inner.reason(ValueError()) == "ValueError ERROR: deep"
    assert len(Captured(["x" * 1000]).reason(ValueError("bad"))) == MAX_KEPT_CHARACTERS + 4


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
    assert captured.lines == []
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", None)
    with quiet() as captured:
        os.write(2, b"hello\n")
    assert captured.lines == ["hello"]


def test_the_users_log_level_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.delenv("GLOG_minloglevel", raising=False)
    lower_log_levels()
    assert [os.environ[name] for name in ("TF_CPP_MIN_LOG_LEVEL", "GLOG_minloglevel")] == ["0", "3"]
