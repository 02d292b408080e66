"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real weights and photographs, which are no part of the project; the test is skipped where they are absent."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "assets"
    folder = Path(os.environ.get("SQUEEZE_EXPORT_ASSETS", default))
    if not folder.is_dir():
        pytest.skip(f"no assets at {folder} (SQUEEZE_EXPORT_ASSETS)")
    return folder
