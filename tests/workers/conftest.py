"""A stand-in toolchain, installed once from a folder, and the data folder of each test."""

from __future__ import annotations

import pytest

from squeeze_export.registry import TOOLCHAINS
from squeeze_export.workers import environments


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
def known(monkeypatch):
    """Puts a toolchain into the registry."""

    def add(toolchain):
        monkeypatch.setitem(TOOLCHAINS, toolchain.NAME, f"stand-in {toolchain.NAME}")
        real = environments.toolchain_named
        monkeypatch.setattr(environments, "toolchain_named", lambda name: toolchain if name == toolchain.NAME else real(name))
        return toolchain

    return add
