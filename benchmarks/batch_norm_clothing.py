"""A SqueezeNet 1.1 with BatchNorm, fine-tuned on photographs of clothing: from its checkpoint to int8 files, as a user goes.

Every convolution gets a BatchNorm that changes nothing at first; then all is fine-tuned with torch. The checkpoint is saved as
Lightning saves one: the network under `net.`, loss weights and the optimizer beside it. `squeeze-export all --int8` does the rest.
What it says is compared with torch's own answers of the network as it was trained, BatchNorm and all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.recording import assets, write
from squeeze_export.core import TORCHVISION, FloatArray
from squeeze_export.images.folders import ImageSet, open_images
from squeeze_export.images.stream import Batch, ImageStream, spread_evenly
from squeeze_export.nets.architecture import architecture
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.nets.modules import build_module
from squeeze_export.report.wording import decibel, percent
from squeeze_export.results import SCHEMA, Measurement
from squeeze_export.train.fit import shuffled, to_input

if TYPE_CHECKING:
    from torch import nn

PIXELS = replace(TORCHVISION, resize_px=128, crop_px=112)
OPTIONS = ("--resize", "128", "--crop", "112")
STEPS, BATCH, PEAK_LR = 288, 32, 4e-3
"""Three rounds of the 3,068 training photographs."""
CALIBRATION_IMAGES = 128


def photographs(part: str) -> ImageSet:
    """`train` or `test`; the classes are in alphabetical order."""
    return open_images(assets() / "datasets/clothing" / part, class_count=10)


def read(images: ImageSet) -> Batch:
    """All of a set."""
    return ImageStream(images, PIXELS).load()[0]


def with_batch_norm(start: Mapping[str, FloatArray], pixels: Batch) -> nn.Module:
    """The published network with ten classes, and a BatchNorm behind each convolution that gives back what it is given."""
    import torch

    module = build_module(architecture("squeezenet1_1", class_count=10), batch_norm=True)
    state = module.state_dict()
    for key, value in start.items():
        name, part = key.rsplit(".", 1)
        if not name.startswith("classifier"):
            state[f"{name}.conv.{part}"] = torch.from_numpy(np.array(value, np.float32))
    module.load_state_dict(state)
    norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in norms:  # one after the other, as the statistics of each are those of the network before it
        module.eval()
        layer.train()
        layer.momentum = 1.0
        with torch.no_grad():
            module(to_input(pixels.pixels[::8], PIXELS))
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.weight.copy_((layer.running_var + layer.eps).sqrt())
            layer.bias.copy_(layer.running_mean)
        layer.momentum = 0.1
    return module


def fine_tuned(pixels: Batch) -> nn.Module:
    """SGD on one cycle, images mirrored or not."""
    import torch

    torch.manual_seed(0)
    rng = np.random.default_rng(2)
    module = with_batch_norm(read_checkpoint(assets() / "weights/squeezenet1_1.safetensors").tensors, pixels)
    optimizer = torch.optim.SGD(module.parameters(), lr=PEAK_LR, momentum=0.9, nesterov=True, weight_decay=2e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=STEPS, pct_start=0.25, cycle_momentum=False)
    criterion = torch.nn.CrossEntropyLoss()
    module.train()
    for step, (images, labels) in zip(range(STEPS), shuffled(pixels.pixels, pixels.labels, batch=BATCH, seed=3), strict=False):
        mirrored = np.where(rng.random(len(images))[:, None, None, None] < 0.5, images[:, :, ::-1], images)
        loss = criterion(module(to_input(mirrored, PIXELS)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        if step % 32 == 0:
            print(f"step {step}/{STEPS}, loss {loss.item():.3f}", file=sys.stderr)
    return module.eval()


def saved(module: nn.Module, pixels: Batch, file: Path) -> None:
    """Writes the checkpoint as Lightning does, and `expected.npz` beside it: one photograph and torch's logits."""
    import torch

    tensors = {f"net.{key}": value for key, value in module.state_dict().items()}
    tensors["criterion.weight"] = torch.ones(10)
    state = {"epoch": 3, "global_step": STEPS, "pytorch-lightning_version": "2.4.0", "hyper_parameters": {"lr": PEAK_LR}}
    torch.save({**state, "state_dict": tensors}, file)
    np.savez(file.with_name("expected.npz"), pixels=pixels.pixels[:1], logits=logits_of(module, pixels.pixels[:1]))


def logits_of(module: nn.Module, pixels: Any) -> FloatArray:
    """(N, 10) float32, of torch itself."""
    import torch

    with torch.no_grad():
        parts = [module(to_input(pixels[start : start + 64], PIXELS)).numpy() for start in range(0, len(pixels), 64)]
    return np.concatenate(parts)


def exported(checkpoint: Path, folder: Path) -> tuple[list[str], str, int]:
    """The command, what it printed, and its exit code."""
    train = photographs("train")
    chosen = spread_evenly(0, len(train.files), len(train.files), CALIBRATION_IMAGES)
    calib = folder / "calib"
    calib.mkdir()
    for number, file in enumerate(file for file, kept in zip(train.files, chosen, strict=True) if kept):
        (calib / f"{number:03}{file.suffix}").symlink_to(file)
    labels = folder / "classes.txt"
    labels.write_text("".join(f"{name}\n" for name in sorted({file.parent.name for file in train.files})))
    command = [sys.executable, "-m", "squeeze_export", "all", "--int8", "--weights", str(checkpoint), "--calib", str(calib)]
    command += ["--eval", str(assets() / "datasets/clothing/test"), "--labels", str(labels), *OPTIONS]
    command += ["--expect", str(checkpoint.with_name("expected.npz")), "--out", str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return command, done.stdout + done.stderr, done.returncode


def row(name: str, measurement: Measurement) -> tuple[str, ...]:
    """Of the table."""
    accuracy = measurement.accuracy
    if accuracy is None or accuracy.top1 is None or accuracy.top1_delta_pp is None:
        return (name, measurement.scheme, measurement.status, measurement.reason, "", "")
    drop = accuracy.top1_delta_pp
    interval = f"{drop.value:+.2f} [{drop.low:+.2f}, {drop.high:+.2f}]"
    agreement = percent(accuracy.top1_agreement.value)
    return (name, measurement.scheme, percent(accuracy.top1), interval, agreement, decibel(accuracy.sqnr_db))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="folder that keeps the checkpoint, so that it is trained once")
    keep: Path | None = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = (keep or folder) / "clothing.ckpt"
        if not checkpoint.exists():
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            lessons = read(photographs("train"))
            saved(fine_tuned(lessons), lessons, checkpoint)
        test = read(photographs("test"))
        module = build_module(architecture("squeezenet1_1", class_count=10), batch_norm=True).eval()
        import torch

        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        module.load_state_dict({key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")})
        logits = logits_of(module, test.pixels)
        command, output, code = exported(checkpoint, folder)
        print(output, file=sys.stderr)
        if code:
            sys.exit(f"`all` ended with {code}")
        report = SCHEMA.read(folder / "out/report.json")
    assert report.images is not None
    same = int((report.images.reference.top1.numbers() == logits.argmax(1)).sum())
    right = int((logits.argmax(1) == test.labels).sum())
    rows = [row(f"{m.target}, {m.runtime}", m) for m in report.measurements]
    spoken = [part.replace(str(folder), "DIR").replace(str(assets()), "ASSETS") for part in ("squeeze-export", *command[3:])]
    count = len(test.labels)
    notes = (
        f"Fine-tuned for {STEPS} steps of {BATCH} photographs at {PIXELS.crop_px} px, and saved as Lightning saves. torch, with"
        f" BatchNorm as it was trained, is right on {right} of {count} test photographs ({percent(right / count)}). The fp32"
        f" reference, which was read from the checkpoint with BatchNorm folded, gives torch's class on {same} of {count}.",
    )
    raw = {"command": spoken, "torch_right": right, "same_class": same, "exit_code": code, "rows": rows}
    header = ("file", "scheme", "top-1", "against fp32, pp", "agreement", "SQNR")
    write("batch_norm_clothing", "A fine-tuned network with BatchNorm, start to end", notes, header, rows, raw)


if __name__ == "__main__":
    main()
