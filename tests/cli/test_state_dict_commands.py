"""A training checkpoint from start to end: BatchNorm, under `net.`, loss weights beside it, labelled evaluation images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from renamed_networks import SqueezeNet, logits_of, settled, suffixed

from squeeze_export.nets.architecture import Architecture, Fire

SMALL = Architecture("squeezenet_custom", 8, 3, (Fire(4, 8, 8), Fire(4, 8, 8)), (0,), 5)
CLASSES = ("ant", "bee", "cat", "dog", "eel")


def draw(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        coarse = np.random.default_rng([seed, index]).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BILINEAR).save(folder / f"{index:02}.png")


def test_a_lightning_checkpoint_with_batch_norm(squeeze, tmp_path):
    network = settled(SqueezeNet(SMALL, suffixed))
    tensors = {f"net.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": {**tensors, "criterion.weight": torch.ones(5)}, "epoch": 3}, tmp_path / "last.ckpt")
    draw(tmp_path / "imgs", 20, seed=1)
    for label, name in enumerate(CLASSES):
        draw(tmp_path / "val" / name, 4, seed=10 + label)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    given = ("--calib", tmp_path / "imgs", "--eval", tmp_path / "val", "--labels", tmp_path / "classes.txt")
    result = squeeze("onnx", "--int8", "--weights", tmp_path / "last.ckpt", *given, "--resize", 64, "--crop", 64, "--rounds", 2)
    assert result.code == 0, result.err
    assert "left out, no part of the network: `state_dict.criterion.weight`, `num_batches_tracked` (7 tensors)" in result.err
    assert "folded 7 BatchNorms" in result.err
    assert "BatchNorm right behind its convolution, eps 1e-05" in result.err
    report = json.loads(Path("squeeze-export-out/report.json").read_text())
    files = sorted((tmp_path / "val").glob("*/*.png"))
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    found = logits_of(network, pixels, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)).argmax(axis=1)
    right = np.mean(found == np.arange(20) // 4)
    fp32, int8 = (row for row in report["measurements"])
    assert fp32["accuracy"]["reference_top1"] == pytest.approx(right)
    assert int8["accuracy"]["top1_agreement"]["value"] > 0.7
