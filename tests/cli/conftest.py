"""Runs the command line in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from squeeze_export.cli import run

Squeeze = Callable[..., "Result"]


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    def refusal(self) -> tuple[str, str]:
        """The message and the hint (or an empty one) of a command that failed; stderr must end with just these lines."""
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        after = lines[lines.index(errors[0]) + 1 :]
        assert len(after) <= 1, self.err
        assert all(line.startswith("hint: ") for line in after), self.err
        return errors[0].removeprefix("error: "), after[0].removeprefix("hint: ") if after else ""


@pytest.fixture
def squeeze(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Squeeze:
    """`squeeze-export` with these arguments, in an empty folder and without settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("SQUEEZE_EXPORT_", "GITHUB_"))]:
        monkeypatch.delenv(name)

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def net(tiny: Path) -> tuple[object, ...]:
    """Options that name the tiny network and its calibration images."""
    return ("--weights", tiny / "tiny.safetensors", "--calib", tiny / "calib")
