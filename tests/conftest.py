"""What every test may ask for."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

import squeeze_export
from squeeze_export.core import Preprocess
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.nets.safetensors_file import write_safetensors
from squeeze_export.registry import TARGETS

IMPORTED = pytest.StashKey[int]()
"""How many modules there were when the garbage collector was last spared them."""
TOGETHER = ("docs", "peers")
"""Folders whose tests share exported files."""
RUN_ONCE_MORE = ("contract", "docs")
"""Folders whose tests run what other tests have gone through line by line."""
TINY = Architecture("squeezenet_custom", 8, 3, (Fire(4, 8, 8), Fire(4, 8, 8)), (0,), 5)


os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads wait for each other asleep: the other workers need the cores
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")  # the same examples on every machine, however slow it is today


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real weights and photographs, which are no part of the project; the test is skipped where they are absent."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "assets"
    folder = Path(os.environ.get("SQUEEZE_EXPORT_ASSETS", default))
    if not folder.is_dir():
        pytest.skip(f"no assets at {folder} (SQUEEZE_EXPORT_ASSETS)")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a job needs, in small: nothing in it may be changed.

    tiny.safetensors and other.safetensors (two untrained SqueezeNets of two Fire modules, 5 classes, 32 px), labels.txt,
    calib/ (20 images), eval/ (8 others).
    """
    folder = tmp_path_factory.mktemp("tiny")
    preprocess = Preprocess(36, 32, "bilinear", "rgb", (127.5, 127.5, 127.5), (64.0, 64.0, 64.0))
    for seed, name in enumerate(("tiny", "other")):
        draw = np.random.default_rng(seed)
        tensors = {
            key: draw.normal(scale=np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1, size=shape).astype(np.float32)
            for key, shape in tensor_shapes(TINY).items()
        }
        write_safetensors(folder / f"{name}.safetensors", TINY, tensors, preprocess)
    (folder / "labels.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    draw_images(folder / "calib", 20, seed=1)
    draw_images(folder / "eval", 8, seed=2)
    return folder


@pytest.fixture(scope="session")
def int8_mlpackage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Core ML package by coremltools' own builder: `coreml_packages.int8_network`, for an image of 8 px. Not to be changed."""
    from coreml_packages import int8_network, written

    return written(tmp_path_factory.mktemp("coreml"), int8_network, color="RGB", name="image")


def draw_images(folder: Path, count: int, *, seed: int) -> None:
    """`00.png` and so on: smooth noise, no two alike."""
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng([seed, index]).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(pixels).resize((48, 40), Image.Resampling.BILINEAR).save(folder / f"{index:02}.png")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The ten longest files of the package: where a second subject may want a file of its own. A length is no failure."""
    package = Path(squeeze_export.__file__).parent
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in package.rglob("*.py")}
    longest = sorted(counts, key=lambda path: -counts[path])[:10]
    found = ", ".join(f"{path.relative_to(package).as_posix()} {counts[path]}" for path in longest)
    terminalreporter.write_line(f"longest files, in lines: {found}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Coverage is not counted where everything is run once more: it doubles the time, and each line has a test of its own.

    pytest-cov's own `no_cover` leaves a second tracer on in the workers of pytest-xdist.
    """
    counted = room_of(item.nodeid) not in RUN_ONCE_MORE and item.get_closest_marker("uncounted") is None
    tracer, of_threads = sys.gettrace(), threading.gettrace()
    if not counted:
        sys.settrace(None)
        threading.settrace(None)
    yield
    if not counted:
        sys.settrace(tracer)
        threading.settrace(of_threads)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Spares the garbage collector what the test imported: every timing, and every conversion to Core ML, has it look at all."""
    if len(sys.modules) > item.session.stash.get(IMPORTED, 0):
        item.session.stash[IMPORTED] = len(sys.modules)
        gc.freeze()


def room_of(nodeid: str) -> str:
    """The folder of a test: `peers` of tests/peers/test_nncf.py::test_it."""
    return nodeid.split("/")[1]


class Together(LoadScopeScheduling):
    """What shares its fixtures runs in one worker, so that each is made once: a file, `TOGETHER`, or one target's contract."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        room = room_of(nodeid)
        target = next((name for name in TARGETS if f"[{name}" in test), "")
        return f"contract {target}" if room == "contract" else room if room in TOGETHER else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)
