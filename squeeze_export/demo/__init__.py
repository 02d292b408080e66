"""The embedded network: no `--weights` means this one. SqueezeNet 1.1 on 24 drawn classes, with its images.

`tools/demo/train.py` of the project's repository made everything here but the code; `measured.json` tells how, and how good it is
(it names that script by its former place).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from squeeze_export.core import Preprocess
from squeeze_export.nets.architecture import Architecture, architecture

NAME = "squeezenet1_1_demo"
CLASS_COUNT = 24
INPUT_PX = 96
PREPROCESS = Preprocess(INPUT_PX, INPUT_PX, "bilinear", "rgb", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
ARCHITECTURE: Architecture = architecture("squeezenet1_1", class_count=CLASS_COUNT)

_FOLDER = Path(__file__).parent


def weights_path(folder: Path = _FOLDER) -> Path:
    """The checkpoint: fp16 safetensors under torchvision's keys; its metadata holds architecture, preprocess and labels."""
    return folder / f"{NAME}.safetensors"


def labels_path(folder: Path = _FOLDER) -> Path:
    """One class name a line, in index order."""
    return folder / "labels.txt"


def labels(folder: Path = _FOLDER) -> tuple[str, ...]:
    """The class names in index order, which is also alphabetical."""
    return tuple(labels_path(folder).read_text(encoding="utf-8").split())


def calibration_folder(folder: Path = _FOLDER) -> Path:
    """120 drawn images, five of a class, in one flat folder with `manifest.csv` (file, class_index, label, seed)."""
    return folder / "calib"


def evaluation_folder(folder: Path = _FOLDER) -> Path:
    """240 other drawn images, ten of a class, in folders named after the classes, with `manifest.csv` as above."""
    return folder / "eval"


def measured(folder: Path = _FOLDER) -> dict[str, Any]:
    """What the training run measured: accuracy with its interval, counts, seeds, host, versions, command."""
    values: dict[str, Any] = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    return values
