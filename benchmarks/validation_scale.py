"""Validation of many images: memory, throughput, a killed process and a killed worker.

`python -m benchmarks.validation_scale [IMAGES]`. The images are cuts of 128 px out of the 472 photographs, no two alike, in a
temporary folder: what they show does not matter here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.recording import RESULTS, assets, write
from squeeze_export import demo
from squeeze_export.graph.run import FloatRunner, one_blas_thread, run_each
from squeeze_export.images.file_list import FileList
from squeeze_export.images.folders import open_images
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.images.stream import ImageStream, usable_cores
from squeeze_export.measure.host import cpu_times, other_load
from squeeze_export.measure.statistics import bootstrap_ratio
from squeeze_export.pipeline import Job, RunOptions, Scale, open_network, read_artifact, run
from squeeze_export.pipeline.evaluation import evaluation_images
from squeeze_export.pipeline.measuring import Comparing, compared
from squeeze_export.pipeline.sessions import entries_of, opened
from squeeze_export.pipeline.shards import SHARD_IMAGES, Findings, ShardRunner

IMAGES = 50_000
PX, STEP = 128, 4
ROUNDS, ROUND_IMAGES = 8, 512
TARGETS = {"one file": ("onnx",), "three files": ("onnx", "tflite", "openvino")}
"""What `validate` is given in the loops, each in a run of its own."""
BOTH = "both, one after the other"
FEW = 10
"""The first set is so many times smaller than the second."""
SHARDS = 50
"""For the runs in which a process is killed."""
MACHINES, PROJECTED = 16, 1_000_000


def make_images(folder: Path, count: int, classes: Sequence[str]) -> Path:
    """Cuts of the photographs and their mirror images, no two alike, in a folder for each class, which means nothing."""
    for name in classes:
        (folder / name).mkdir(parents=True)
    sources = sorted((assets() / "images" / "eval").rglob("*.jp*g"))
    each = -(-count // len(sources))
    steps = int(np.sqrt(each / 2)) + 1
    done = 0
    for source in sources:
        with Image.open(source) as found:
            photo = found.convert("RGB").resize((PX + STEP * steps,) * 2, Image.Resampling.BILINEAR)
        places = itertools.product(range(0, STEP * steps, STEP), range(0, STEP * steps, STEP), (False, True))
        for left, top, mirrored in itertools.islice(places, min(each, count - done)):
            cut = photo.crop((left, top, left + PX, top + PX))
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cut
            cut.save(folder / classes[done % len(classes)] / f"{done:06}.jpg", quality=75)
            done += 1
    return folder


_TELLS_ITS_PEAK = """
import atexit, sys
from squeeze_export.cli import main
status = lambda: open("/proc/self/status").read()
atexit.register(lambda: print(status().split("VmHWM:")[1].split()[0], file=sys.stderr))
main()
"""
"""The command line, whose last word on stderr is its largest resident set in kB. `ru_maxrss` would be at least that of this
process: a child begins with its parent's."""


class Validation:
    """A `squeeze-export validate --json` in a process of its own.

    Args:
        file: an exported file of the demo network.
        images: a list.
        out: where its output goes.
        options: more of the command line.
    """

    def __init__(self, file: Path, images: Path, out: Path, *options: str) -> None:
        self._out, self._start = out, time.perf_counter()
        words = [sys.executable, "-c", _TELLS_ITS_PEAK, "validate", str(file), "--eval", str(images), "--json", *options]
        with out.open("wb") as stdout, out.with_suffix(".err").open("wb") as stderr:
            self._process = subprocess.Popen(words, stdout=stdout, stderr=stderr)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def wait(self) -> tuple[dict[str, Any], float, int]:
        """What the report says of the files and images, wall time in s, and the largest resident set in bytes."""
        code, told = self._process.wait(), self._out.with_suffix(".err").read_text()
        if code:
            sys.exit(told[-3000:])
        report = json.loads(self._out.read_text())
        found = {name: report[name] for name in ("measurements", "evaluation", "images", "warnings")}
        return found, time.perf_counter() - self._start, int(told.split()[-1]) * 1024


def wait_for(kept: Path, shards: int) -> None:
    """Until so many shards are finished.

    Raises:
        SystemExit: that takes longer than ten minutes.
    """
    end = time.monotonic() + 600
    while len(list(kept.glob("shard-*"))) < shards:
        if time.monotonic() > end:
            sys.exit(f"no {shards} shards in {kept}")
        time.sleep(0.1)


def comparing_workers(parent: int) -> list[int]:
    """Ray's processes below a process that have a task just now."""
    parents, working = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            working += [int(folder.name)] if b"ray::compare_part" in (folder / "cmdline").read_bytes() else []

    def below(process: int) -> bool:
        return process == parent or (process in parents and below(parents[process]))

    return [process for process in working if below(process)]


@contextmanager
def loops(weights: Path, files: Sequence[Path], images: Path) -> Iterator[dict[str, Callable[[], object]]]:
    """A bare decode loop, a bare inference loop (reference and files) and the validation of the same images, all on every core."""
    network = open_network(weights)
    entries, options = entries_of([read_artifact(file) for file in files], RunOptions()), RunOptions()
    image_set = open_images(images, class_count=network.class_count)
    reference = FloatRunner(network.graph)
    with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool, opened(entries, options) as outcomes:
        sessions = [outcome.session for outcome in outcomes if outcome.session is not None]

        def decode() -> list[Any]:
            return list(pool.map(lambda path: load_pixels(path, network.graph.preprocess), image_set.files))

        pixels = np.stack(decode())

        def infer() -> int:
            for start in range(0, len(pixels), 32):
                part = pixels[start : start + 32]
                running = [pool.submit(session.infer, part) for session in sessions]
                run_each(pool, reference, part)
                wait(running)
            return len(pixels)

        def validate() -> None:
            evaluation = evaluation_images(network, images, None)
            assert evaluation is not None
            scale = Scale(shard_images=len(pixels) // 2)  # as large sets are: in shards
            compared(outcomes, Comparing(network, evaluation, scale=scale), options)

        yield {"decode": decode, "infer": infer, BOTH: lambda: [decode(), infer()], "validate": validate}


def throughput(weights: Path, files: Sequence[Path], images: Path) -> dict[str, list[float]]:
    """Seconds of each loop, in turn, after one round that does not count."""
    samples: dict[str, list[float]] = {}
    with loops(weights, files, images) as found:
        for number in range(ROUNDS + 1):
            order = list(found)[number % len(found) :] + list(found)[: number % len(found)]
            for name in order:
                start = time.perf_counter()
                found[name]()
                samples.setdefault(name, []).append(time.perf_counter() - start)
            print(f"round {number}: " + ", ".join(f"{name} {times[-1]:.2f} s" for name, times in samples.items()), file=sys.stderr)
    return {name: times[1:] for name, times in samples.items()}


def merging_s(weights: Path | None, file: Path, images: Path) -> tuple[float, int]:
    """What putting `PROJECTED` images together costs, in s, measured on copies of one shard; and the bytes of such a shard."""
    network, options = open_network(weights), RunOptions()
    image_set = open_images(images, class_count=network.class_count)
    with (
        one_blas_thread(),
        ThreadPoolExecutor(usable_cores()) as pool,
        opened(entries_of([read_artifact(file)], options), options) as found,
    ):
        session, key = found[0].session, found[0].entry.key
        assert session is not None
        stream = ImageStream(image_set.part(0, SHARD_IMAGES), network.graph.preprocess)
        shard = ShardRunner(network.graph, {key: (session, "logits")}, pool, SHARD_IMAGES, 1).run(0, stream)
    many = replace(image_set, files=FileList(Path(f"{number:07}.jpg") for number in range(PROJECTED)), labels=None)
    begun = time.perf_counter()
    findings = Findings(ImageStream(many, network.graph.preprocess), network.class_count)
    for start in range(0, PROJECTED, SHARD_IMAGES):
        pixels = shard.images.copy()
        pixels["pixels"] += np.uint64(start)  # no duplicates
        findings.add(replace(shard, start=start, images=pixels))
    findings.close()
    findings.accuracy(key), findings.packed_answers(key), findings.compared_images(())
    return time.perf_counter() - begun, sum(records.nbytes for records in (shard.images, shard.reference, shard.answers[key]))


def killed_and_resumed(file: Path, images: Path, place: Path, shard_images: int) -> tuple[dict[str, Any], int]:
    """The report of a validation that was killed at half, and then went on; and how many shards were done by then."""
    kept = place / "kept"
    options = ("--resume", str(kept), "--shard-images", str(shard_images))
    first = Validation(file, images, place / "killed.json", *options)
    wait_for(kept, SHARDS // 2)
    first.kill()
    done = len(list(kept.glob("shard-*")))
    return Validation(file, images, place / "resumed.json", *options).wait()[0], done


def a_worker_killed(file: Path, images: Path, place: Path, shard_images: int) -> tuple[dict[str, Any], float, int]:
    """The report of a validation on Ray; how long it took, in s; and how many workers were killed while they compared."""
    kept = place / "kept-by-ray"
    validation = Validation(
        file, images, place / "ray.json", "--engine", "ray", "--resume", str(kept), "--shard-images", str(shard_images)
    )
    wait_for(kept, 3)
    killed = comparing_workers(validation.pid)[:1]
    for process in killed:
        os.kill(process, signal.SIGKILL)
    report, wall_s, _ = validation.wait()
    return report, wall_s, len(killed)


class Parts:
    """What is measured, each part by itself.

    Args:
        place: an empty folder.
        count: images of the large set.
    """

    def __init__(self, place: Path, count: int) -> None:
        self._place, self._count = place, count
        self._weights = assets() / "weights" / "squeezenet1_1.safetensors"
        (self._demo,) = self._exported(Job(("onnx",), "int8", out=place / "demo"))

    def _exported(self, job: Job) -> list[Path]:
        made = run(replace(job, validate=False, bench=False))
        return [job.out / row.artifact for row in made.measurements]

    def _images(self, count: int, classes: Sequence[str]) -> Path:
        folder = self._place / f"images-{count}-{len(classes)}"
        return folder if folder.exists() else make_images(folder, count, classes)

    def throughput(self) -> dict[str, Any]:
        """Loops over v1.1 and its files."""
        calib = assets() / "images" / "calib"
        targets = max(TARGETS.values(), key=len)
        files = self._exported(Job(targets, "int8", weights=self._weights, calib=calib, out=self._place / "v1.1"))
        images, before = self._images(ROUND_IMAGES, [""]), cpu_times()
        seconds = {name: throughput(self._weights, files[: len(some)], images) for name, some in TARGETS.items()}
        return {"images": ROUND_IMAGES, "rounds": ROUNDS, "seconds": seconds, "other_cores": other_load(before, cpu_times())}

    def memory(self) -> dict[str, Any]:
        """Of a small and a large set."""
        found = {}
        for count in (self._count // FEW, self._count):
            _, wall_s, peak_bytes = Validation(self._demo, self._images(count, demo.labels()), self._place / "out.json").wait()
            found[str(count)] = {"wall_s": wall_s, "peak_bytes": peak_bytes}
        return found

    def breaks(self) -> dict[str, Any]:
        """A process that is killed, and a worker of Ray's."""
        images, shard_images = self._images(self._count, demo.labels()), self._count // SHARDS
        whole, whole_s, _ = Validation(self._demo, images, self._place / "whole.json").wait()
        resumed, shards = killed_and_resumed(self._demo, images, self._place, shard_images)
        on_ray, ray_s, killed = a_worker_killed(self._demo, images, self._place, shard_images)
        same = {"resumed_is_same": resumed == whole, "ray_is_same": on_ray == whole, "shards_before_kill": shards}
        return {"images": self._count, "workers": usable_cores(), "killed": killed, "whole_s": whole_s, "ray_s": ray_s, **same}

    def merging(self) -> dict[str, Any]:
        """Putting very many images together."""
        merge_s, shard_bytes = merging_s(None, self._demo, self._images(SHARD_IMAGES, demo.labels()))
        return {"images": PROJECTED, "merge_s": merge_s, "shard_bytes": shard_bytes}


PARTS = ("throughput", "memory", "breaks", "merging")


def main() -> None:
    """Measures everything, or one part once more, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", type=int, default=IMAGES)
    parser.add_argument("--only", choices=PARTS, help="keep the other parts of the results")
    given = parser.parse_args()
    raw = json.loads((RESULTS / "validation_scale.json").read_text(encoding="utf-8"))["results"] if given.only else {}
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
        parts = Parts(Path(folder), given.images)
        for name in (given.only,) if given.only else PARTS:
            raw[name] = getattr(parts, name)()
            print(f"{name}: {raw[name]}", file=sys.stderr)
    loops_taken = raw["throughput"]
    notes = [
        "int8 files against the fp32 reference: the demo network's ONNX file for memory and breaks, v1.1 for throughput, as"
        " ONNX alone and as ONNX, TFLite and OpenVINO."
        f" Images are cuts of {PX} px out of the 472 photographs, no two alike. Loops take {loops_taken['images']} images in"
        f" {loops_taken['rounds']} interleaved rounds, on every core, and medians are compared; inference is the reference and the"
        f" files on each image. Other processes kept {loops_taken['other_cores']} cores busy meanwhile. The estimate divides by the"
        " measured rate of `validate`; that a shared file system reads as fast as this disk was not measured.",
    ]
    write("validation_scale", "Validation at scale", notes, ("", "result"), rows_of(raw), raw)
    if not (raw["breaks"]["resumed_is_same"] and raw["breaks"]["ray_is_same"] and raw["breaks"]["killed"]):
        sys.exit("the same images gave another report, or no worker was killed")


def rows_of(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The table of all parts."""
    (few, small), (many, large) = ((int(count), each) for count, each in raw["memory"].items())
    grown = large["peak_bytes"] - small["peak_bytes"]
    breaks, merging, images = raw["breaks"], raw["merging"], raw["throughput"]["images"]
    all_seconds: dict[str, dict[str, list[float]]] = raw["throughput"]["seconds"]
    of_validate = images / statistics.median(all_seconds["one file"]["validate"])
    hours = PROJECTED / (MACHINES * of_validate) / 3600

    def loop_rows(files: str, seconds: Mapping[str, list[float]]) -> Iterator[tuple[str, str]]:
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        rates = ", ".join(f"{name} {images / median:.1f}" for name, median in medians.items())
        yield f"v1.1, {files}: images/s of the loops", rates
        slower = max(("decode", "infer"), key=medians.__getitem__)
        ceiling = medians[slower] / (medians["decode"] + medians["infer"])
        for other, note in ((slower, f"; at most {ceiling:.2f}, as both loops need every core"), (BOTH, "")):
            found = bootstrap_ratio(seconds[other], seconds["validate"])
            words = f"the slower bare loop, {slower}" if other == slower else "both bare loops, one after the other"
            yield f"v1.1, {files}: `validate` against {words}", f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]{note}"

    def yes(same: bool) -> str:
        return "the same report, to the digit" if same else "ANOTHER REPORT"

    killed = f"{breaks['images']:,} images, killed with {breaks['shards_before_kill']} of {SHARDS} shards done, then resumed"
    return [
        (f"peak memory of `validate`, {few:,} images", f"{small['peak_bytes'] / 1e6:.1f} MB ({small['wall_s']:.0f} s)"),
        (f"the same, {many:,} images", f"{large['peak_bytes'] / 1e6:.1f} MB ({large['wall_s']:.0f} s)"),
        ("difference", f"{grown / 1e6:.1f} MB, {grown / (many - few):.0f} bytes an image"),
        (killed, yes(breaks["resumed_is_same"])),
        (f"on Ray with {breaks['workers']} workers, {breaks['killed']} killed on the way", yes(breaks["ray_is_same"])),
        ("these images in one process; on Ray, with its start", f"{breaks['whole_s']:.0f} s; {breaks['ray_s']:.0f} s"),
        *(row for files, seconds in all_seconds.items() for row in loop_rows(files, seconds)),
        (
            f"putting {merging['images']:,} images together",
            f"{merging['merge_s']:.1f} s, on copies of one shard of {merging['shard_bytes'] / 1000:.0f} kB",
        ),
        (
            f"v1.1, {PROJECTED:,} images on {MACHINES} machines like this one",
            f"*estimated*: {hours:.1f} h, {MACHINES * hours:.0f} machine-hours",
        ),
    ]


if __name__ == "__main__":
    main()
