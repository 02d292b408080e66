"""The files that the docs name, made small: the demo network under the name of a checkpoint, and a few of its images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from doc_pages import Command

from squeeze_export import cli, demo
from squeeze_export.cli import weights
from squeeze_export.core import TORCHVISION
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import INT8
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.nets.download import NAMED_WEIGHTS
from squeeze_export.nets.modules import build_module, load_arrays
from squeeze_export.pipeline import calibrate, export, network, open_network

CALIBRATION_COUNT = 16
TRAINING_COUNT = 100
EVALUATED = ("barcode", "heart", "stop", "wifi")
CHECKPOINT = "squeezenet1_1.pth"
QUICK = {"ROUNDS": "2", "EMULATED_IMAGES": "2", "CROP": "64"}
"""Settings under which commands take a fraction of their time; what a page says itself beats them."""

Typed = Callable[[Command], tuple[int, str]]


@pytest.fixture(scope="session")
def named_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages take for granted. It is copied before anything is written there."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("named")
    checkpoint = read_checkpoint(demo.weights_path())
    tensors = checkpoint.tensors
    for name in (CHECKPOINT, "net.pth"):
        torch.save({key: torch.from_numpy(values.copy()) for key, values in tensors.items()}, folder / name)
    assert checkpoint.architecture is not None
    net = build_module(checkpoint.architecture).eval()
    load_arrays(net, tensors)
    pixels = np.random.default_rng(0).integers(0, 256, (int(QUICK["CROP"]), int(QUICK["CROP"]), 3), np.uint8)
    with torch.no_grad():
        logits = net(torch.from_numpy((pixels - np.float32(TORCHVISION.mean)) / np.float32(TORCHVISION.std)).permute(2, 0, 1)[None])
    np.savez(folder / "expected.npz", pixels=pixels, logits=logits.numpy())
    shutil.copy(demo.labels_path(), folder / "classes.txt")
    (folder / "imgs").mkdir()
    for photo in sorted(demo.calibration_folder().glob("*.jpg"))[:CALIBRATION_COUNT]:
        shutil.copy(photo, folder / "imgs")
    for photo in sorted(demo.calibration_folder().glob("*.jpg"))[:TRAINING_COUNT]:
        label = photo.stem.split("_", 1)[1]
        (folder / "train" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, folder / "train" / label)
    for label in EVALUATED:
        (folder / "val" / label).mkdir(parents=True)
        shutil.copy(min((demo.evaluation_folder() / label).glob("*.jpg")), folder / "val" / label)
    return folder


@pytest.fixture(scope="session")
def exported(named_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the int8 file of every target, as the guides' commands write it, and other tools' files for `audit`."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(named_files, folder, dirs_exist_ok=True)
    names = ("--weights", CHECKPOINT, "--calib", "imgs", "--labels", "classes.txt", "--no-validate", "--no-bench", "--out", ".")
    with pytest.MonkeyPatch.context() as changed:
        changed.chdir(folder)
        assert exit_code(["all", "--int8", *names]) == 0
        assert exit_code(["onnx", "--scheme", "fp32", *names]) == 0
        shutil.copy("squeezenet1_1.int8.tflite", "other-tools-int8.tflite")
        assert exit_code(["onnx", "--scheme", "fp32", *names, "--out", "others", "--crop", QUICK["CROP"]]) == 0
        model = onnx.load("others/squeezenet1_1.fp32.onnx")
        del model.metadata_props[:]  # which would tell whose it is
        onnx.save(model, "other-tools.onnx")
    return folder


@pytest.fixture(scope="session")
def unlabelled(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same int8 files without labels."""
    opened = open_network(exported / CHECKPOINT)
    made, folder = calibrate(opened, exported / "imgs"), tmp_path_factory.mktemp("unlabelled")
    assert opened.graph.labels == ()
    for target in ("onnx", "tflite", "openvino", "coreml", "coreai"):
        export(made.quantized, target, INT8, folder, name="squeezenet1_1")
    return folder


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, exported: Path) -> Typed:
    """Runs a command line of ours in this process and the current folder: its exit code and stderr. Nothing is downloaded."""
    for name in [name for name in os.environ if name.startswith("SQUEEZE_EXPORT_")]:
        monkeypatch.delenv(name)
    for name, value in QUICK.items():
        monkeypatch.setenv(f"SQUEEZE_EXPORT_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def fetched(name: str, *, base_url: str | None = None, **_: object) -> Path:
        if name not in NAMED_WEIGHTS or not (base_url or "https://").startswith("https://"):
            raise BadInput(f"`{name}` of `{base_url}`")
        return Path(CHECKPOINT).absolute()

    for module in (network, weights):
        monkeypatch.setattr(module, "fetch_weights", fetched)
    monkeypatch.setattr(demo, "evaluation_folder", lambda: exported / "val")  # 4 of the 240

    def run(command: Command) -> tuple[int, str]:
        capfd.readouterr()
        with monkeypatch.context() as changed:
            for name, value in command.environment.items():
                changed.setenv(name, value)
            code = exit_code(_fewer_rounds(command.words[1:]))
        out, err = capfd.readouterr()
        if command.out:
            Path(command.out).write_text(out, encoding="utf-8")
        return code, err

    return run


def exit_code(arguments: Sequence[str]) -> int:
    """Of `squeeze-export` with these arguments."""
    try:
        return cli.run(arguments)
    except SystemExit as err:  # shell completion ends the process by itself
        return int(err.code or 0)


def _fewer_rounds(words: Sequence[str]) -> list[str]:
    """A page's own `--rounds` would beat the environment's."""
    return [("2" if before == "--rounds" else word) for before, word in zip(("", *words), words, strict=False)]
