"""`toolchain`, and `executorch` without its toolchain: what is asked, refused and listed."""

from __future__ import annotations

import json

import pytest

from squeeze_export.cli import run
from squeeze_export.workers import environments, executorch


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("SQUEEZE_EXPORT_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "toolchains"


@pytest.fixture
def notice(monkeypatch):
    """ExecuTorch has nothing to accept; a toolchain that has."""
    monkeypatch.setattr(executorch, "NOTICE", "its wheel states no licence")


@pytest.mark.usefixtures("notice")
def test_a_licence_is_shown_and_not_accepted_in_silence(data, capsys, monkeypatch):
    """In a pipe there is nobody to ask."""
    monkeypatch.setattr(environments, "fill", lambda *_: pytest.fail("installs"))
    assert run(["toolchain", "install", "executorch"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "states no licence" in told.err
    assert "hint: squeeze-export toolchain install executorch --accept-licence" in told.err
    assert not data.exists()


@pytest.mark.usefixtures("notice")
@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 2)])
def test_on_a_terminal_it_is_asked_for(data, capsys, monkeypatch, answer, code):
    monkeypatch.setattr(environments, "fill", lambda toolchain, draft, progress: None)
    monkeypatch.setattr(environments, "check_machine", lambda toolchain: None)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda text, **_: answer)
    assert run(["toolchain", "install", "executorch"]) == code
    assert (data / "executorch-1.5.1").exists() == answer


def test_install_list_and_remove(data, capsys, monkeypatch):
    assert run(["toolchain", "list"]) == 0
    assert capsys.readouterr().out == "executorch  1.5.1  not installed  licence: BSD 3-clause\n"
    monkeypatch.setattr(environments, "fill", lambda toolchain, draft, progress: (draft / "file").write_bytes(bytes(2_000_000)))
    monkeypatch.setattr(environments, "check_machine", lambda toolchain: None)
    assert run(["toolchain", "install", "executorch", "--accept-licence", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "executorch", "version": "1.5.1", "path": str(data / "executorch-1.5.1")}
    assert run(["toolchain", "list"]) == 0
    assert capsys.readouterr().out == f"executorch  1.5.1  2 MB  licence: BSD 3-clause  {data / 'executorch-1.5.1'}\n"
    assert run(["toolchain", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed["installed"]] == ["executorch"]
    assert run(["toolchain", "remove", "executorch"]) == 0
    assert capsys.readouterr().out == f"removed {data / 'executorch-1.5.1'}\n"
    assert run(["toolchain", "remove", "executorch"]) == 2


@pytest.mark.parametrize(
    "arguments", [["install"], ["remove"], ["list", "executorch"], ["install", "rknn"], ["install", "tensorrt"], ["update"], []]
)
def test_wrong_usage(data, capsys, arguments):
    assert run(["toolchain", *arguments]) == 2
    assert "error:" in capsys.readouterr().err


def test_executorch_without_its_toolchain(data, capsys, tmp_path):
    """Before any work is done."""
    assert run(["executorch", "--out", str(tmp_path / "out")]) == 3
    assert "hint: squeeze-export toolchain install executorch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
