"""The files that the side-by-side runs compare: ours and every vendor's own, from the same checkpoint and photographs."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.recording import assets
from squeeze_export.files import make_folder
from squeeze_export.peers import peer_of
from squeeze_export.pipeline import Job, calibrate, open_network, run, write_table
from squeeze_export.registry import PEERS, TARGETS
from squeeze_export.targets import target_named

NETWORKS = {"SqueezeNet 1.1": "squeezenet1_1.safetensors", "SqueezeNet 1.0": "squeezenet1_0_deep_compression.net"}
ALL_NETWORKS = {**NETWORKS, "SqueezeNet 1.1, Caffe": "squeezenet1_1_caffe_fp16.onnx"}
OURS = "squeeze-export"
OURS_BEST = "squeeze-export, recipe best"


@dataclass(frozen=True)
class Contestant:
    """An exported file.

    Attributes:
        network: a key of `ALL_NETWORKS`.
        target: its format.
        scheme: `fp32` or `int8`.
        maker: `OURS`, `OURS_BEST`, or the vendor's own words for what it did.
        path: the file.
    """

    network: str
    target: str
    scheme: str
    maker: str
    path: Path


@contextmanager
def contestants(*, everything: bool = False) -> Iterator[list[Contestant]]:
    """Makes all files: `--files DIR` keeps them there and makes only what is missing, for several benchmarks in a row.

    Args:
        everything: the Caffe network and our recipe `best` too, which changes nothing but the accuracy.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {sys.modules['__main__'].__spec__.name}")  # type: ignore[union-attr]
    parser.add_argument("--files", type=Path, help="folder for the exported files; those that are there are not made again")
    folder = parser.parse_args().files
    if folder is not None:
        yield _made(folder, everything)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield _made(Path(temporary), everything)


def _made(folder: Path, everything: bool) -> list[Contestant]:
    found = []
    for network, file in (ALL_NETWORKS if everything else NETWORKS).items():
        for target in TARGETS:
            found.append(_one(folder, network, file, target, "fp32", "fast", OURS))
            found.append(_one(folder, network, file, target, "int8", "fast", OURS))
            if everything:
                found.append(_one(folder, network, file, target, "int8", "best", OURS_BEST, _best(folder / network, file)))
        for target in PEERS:
            peer = peer_of(target)
            found += [_one(folder, network, file, target, "int8", recipe, peer.method(recipe)) for recipe in peer.METHODS]
    return found


def _best(folder: Path, file: str) -> Path:
    """The table of the recipe `best`, made once for all targets."""
    table = folder / "best.table"
    if not table.exists():
        make_folder(folder)
        network = open_network(assets() / "weights" / file)
        write_table(calibrate(network, assets() / "images" / "calib", recipe="best"), table)
    return table


def _one(
    folder: Path, network: str, file: str, target: str, scheme: str, recipe: str, maker: str, table: Path | None = None
) -> Contestant:
    out = folder / network / target / recipe
    pattern = f"*.{scheme}{target_named(target).SUFFIX}"
    if not list(out.glob(pattern)):
        print(f"{network}: {scheme} {target} by {maker}", file=sys.stderr)
        run(
            Job(
                targets=(target,),
                scheme=scheme,
                recipe=recipe,
                table=table,
                weights=assets() / "weights" / file,
                calib=assets() / "images" / "calib",
                eval=assets() / "images" / "eval",  # for the vendors' recipes that need labelled images
                labels=assets() / "images" / "imagenet_wnids.txt",
                out=out,
                validate=False,
                bench=False,
            )
        )
    (path,) = out.glob(pattern)
    return Contestant(network, target, scheme, maker, path)
