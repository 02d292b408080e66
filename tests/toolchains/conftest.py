"""A stand-in toolchain, installed once from a folder, and the data folder of each test."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import standin

from squeeze_export.toolchains import TOOLCHAINS, _environment


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The user's data folder, empty."""
    monkeypatch.setenv("SQUEEZE_EXPORT_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "toolchains"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that is all of pip's index, and no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """The stand-in's worker. Environments of the tests have no numpy, so they are shown the one here."""
    path = tmp_path / "worker.py"
    site = Path(importlib.util.find_spec("numpy").origin).parents[1]
    path.write_text(standin.WORKER)
    serve = tmp_path / "serve.py"
    original = _environment.Path(_environment.__file__).with_name("_serve.py").read_text()
    serve.write_text(f"import sys\nsys.path.append({str(site)!r})\n{original}")
    monkeypatch.setattr("squeeze_export.toolchains._process._SERVE", serve)
    monkeypatch.setattr(_environment, "_script", lambda toolchain: path)
    return path


@pytest.fixture
def known(monkeypatch):
    """Puts a toolchain into the registry."""

    def add(toolchain):
        monkeypatch.setitem(TOOLCHAINS, toolchain.NAME, f"stand-in {toolchain.NAME}")
        real = _environment.toolchain_named
        monkeypatch.setattr(_environment, "toolchain_named", lambda name: toolchain if name == toolchain.NAME else real(name))
        return toolchain

    return add
