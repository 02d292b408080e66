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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.recording import assets, write
from squeeze_export import demo
from squeeze_export.graph.run import FloatRunner, one_blas_thread, run_each
from squeeze_export.images.file_list import FileList
from squeeze_export.images.folders import open_images
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.images.stream import ImageStream, usable_cores
from squeeze_export.measure.host import cpu_times, other_load
from squeeze_export.measure.statistics import bootstrap_ratio
from squeeze_export.pipeline import Job, RunOptions, open_network, read_artifact, run
from squeeze_export.pipeline.evaluation import evaluation_images
from squeeze_export.pipeline.measuring import Comparing, compared
from squeeze_export.pipeline.sessions import entries_of, opened
from squeeze_export.pipeline.shards import SHARD_IMAGES, Findings, ShardRunner

IMAGES = 50_000
PX, STEP = 128, 4
ROUNDS, ROUND_IMAGES = 8, 64
BOTH = "both, one after the other"
FEW = 10
"""The first set is so many times smaller than the second."""
KILLED_IMAGES, SHARDS = 2000, 20
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
        words = [sys.executable, "-m", "squeeze_export", "validate", str(file), "--eval", str(images), "--json", *options]
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
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            sys.exit(self._out.with_suffix(".err").read_text()[-3000:])
        report = json.loads(self._out.read_text())
        found = {name: report[name] for name in ("measurements", "evaluation", "images", "warnings")}
        return found, time.perf_counter() - self._start, usage.ru_maxrss * 1024


def wait_for(kept: Path, shards: int) -> None:
    """Until so many shards are finished.

    Raises:
        SystemExit: that takes longer than ten minutes.
    """
    end = time.monotonic() + 600
    while len(list(kept.glob("shard-*"))) < shards:
        if time.monotonic() > end:
            sys.exit(f"no {shards} shards in {kept}")
        time.sleep(0.02)


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
def loops(weights: Path, file: Path, images: Path) -> Iterator[dict[str, Callable[[], object]]]:
    """A bare decode loop, a bare inference loop (reference and file) and the validation of the same images, all on every core."""
    network = open_network(weights)
    entries, options = entries_of([read_artifact(file)], RunOptions()), RunOptions()
    image_set = open_images(images, class_count=network.class_count)
    reference = FloatRunner(network.graph)
    with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool, opened(entries, options) as outcomes:
        session = outcomes[0].session
        assert session is not None

        def decode() -> list[Any]:
            return list(pool.map(lambda path: load_pixels(path, network.graph.preprocess), image_set.files))

        pixels = np.stack(decode())

        def infer() -> int:
            for start in range(0, len(pixels), 32):
                part = pixels[start : start + 32]
                running = pool.submit(session.infer, part)
                run_each(pool, reference, part)
                running.result()
            return len(pixels)

        def validate() -> None:
            evaluation = evaluation_images(network, images, None)
            assert evaluation is not None
            compared(outcomes, Comparing(network, evaluation), options)

        yield {"decode": decode, "infer": infer, BOTH: lambda: [decode(), infer()], "validate": validate}


def throughput(weights: Path, file: Path, images: Path) -> dict[str, list[float]]:
    """Seconds of each loop, in turn, after one round that does not count."""
    samples: dict[str, list[float]] = {}
    with loops(weights, file, images) as found:
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


def main() -> None:
    """Runs everything and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", type=int, default=IMAGES)
    count = parser.parse_args().images
    weights = assets() / "weights" / "squeezenet1_1.safetensors"
    before = cpu_times()
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
        place = Path(folder)
        job = Job(("onnx",), "int8", calib=None, validate=False, bench=False, out=place / "demo")
        run(job)
        run(replace(job, weights=weights, calib=assets() / "images" / "calib", out=place / "v1.1"))
        (demo_file,), (file,) = (list((place / name).glob("*.int8.onnx")) for name in ("demo", "v1.1"))
        sizes = (KILLED_IMAGES, count // FEW, count)
        some, few, many = (make_images(place / f"images-{number}", number, demo.labels()) for number in sizes)
        samples = throughput(weights, file, make_images(place / "round", ROUND_IMAGES, [""]))
        _, few_s, few_bytes = Validation(demo_file, few, place / "few.json").wait()
        _, many_s, many_bytes = Validation(demo_file, many, place / "many.json").wait()
        whole, whole_s, _ = Validation(demo_file, some, place / "whole.json").wait()
        resumed = killed_and_resumed(demo_file, some, place)
        on_ray, ray_s, killed = a_worker_killed(demo_file, some, place)
        merge_s, shard_bytes = merging_s(None, demo_file, some)
    load = other_load(before, cpu_times())
    rates = {name: ROUND_IMAGES / statistics.median(times) for name, times in samples.items()}
    slower = max(("decode", "infer"), key=lambda name: statistics.median(samples[name]))
    share = bootstrap_ratio(samples[slower], samples["validate"])
    share_of_both = bootstrap_ratio(samples[BOTH], samples["validate"])
    hours = PROJECTED / (MACHINES * rates["validate"]) / 3600
    checks = {
        f"{KILLED_IMAGES:,} images, killed at half, then resumed: the same report": resumed == whole,
        f"Ray with {usable_cores()} workers, {killed} killed on the way: the same report": on_ray == whole and killed > 0,
    }
    rows = [
        (f"peak memory of `validate`, {count // FEW:,} images", f"{few_bytes / 1e6:.1f} MB ({few_s:.0f} s)"),
        (f"the same, {count:,} images", f"{many_bytes / 1e6:.1f} MB ({many_s:.0f} s)"),
        (
            "difference",
            f"{(many_bytes - few_bytes) / 1e6:.1f} MB, {(many_bytes - few_bytes) / (count - count // FEW):.0f} bytes an image",
        ),
        *((name, "yes" if held else "NO") for name, held in checks.items()),
        ("these images in one process; on Ray, with its start", f"{whole_s:.0f} s; {ray_s:.0f} s"),
        *(
            (f"v1.1, bare loop: {name}" if name != "validate" else "v1.1, `validate`", f"{rate:.1f} images/s")
            for name, rate in rates.items()
        ),
        (f"`validate` against the slower bare loop ({slower})", f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"),
        (
            "`validate` against both loops, one after the other",
            f"{share_of_both.value:.3f} [{share_of_both.low:.3f}, {share_of_both.high:.3f}]",
        ),
        (
            f"putting {PROJECTED:,} images together",
            f"{merge_s:.1f} s, measured on copies of one shard of {shard_bytes / 1000:.0f} kB",
        ),
        (
            f"v1.1, {PROJECTED:,} images on {MACHINES} machines like this one",
            f"*estimated*: {hours:.1f} h, {MACHINES * hours:.0f} machine-hours",
        ),
    ]
    raw: dict[str, Any] = {
        "seconds": samples,
        "peak_bytes": [few_bytes, many_bytes],
        "wall_s": [few_s, many_s, whole_s, ray_s],
        "checks": checks,
    }
    raw |= {"merge_s": merge_s, "shard_bytes": shard_bytes, "other_load_cores": load}
    notes = [
        "int8 ONNX files on ONNX Runtime, against the fp32 reference: the demo network for memory and breaks, v1.1 for throughput."
        f" Images are cuts of {PX} px out of the 472 photographs, no two alike. Loops take {ROUND_IMAGES} images in {ROUNDS}"
        " interleaved rounds, on every core, and medians are compared; inference is the reference and the file on each image. Other"
        f" processes kept {load} cores busy meanwhile. The estimate divides by the measured rate of `validate`; that a shared file"
        " system reads as fast as this disk was not measured.",
    ]
    write("validation_scale", "Validation at scale", notes, ("", "result"), rows, raw)
    if not all(checks.values()):
        sys.exit("the same images gave another report")


def killed_and_resumed(file: Path, images: Path, place: Path) -> dict[str, Any]:
    """The report of a validation that was killed at half, and then went on."""
    kept = place / "kept"
    options = ("--resume", str(kept), "--shard-images", str(KILLED_IMAGES // SHARDS))
    first = Validation(file, images, place / "killed.json", *options)
    wait_for(kept, SHARDS // 2)
    first.kill()
    print(f"killed after {len(list(kept.glob('shard-*')))} of {SHARDS} shards", file=sys.stderr)
    return Validation(file, images, place / "resumed.json", *options).wait()[0]


def a_worker_killed(file: Path, images: Path, place: Path) -> tuple[dict[str, Any], float, int]:
    """The report of a validation on Ray; how long it took, in s; and how many workers were killed while they compared."""
    kept = place / "kept-by-ray"
    validation = Validation(
        file, images, place / "ray.json", "--engine", "ray", "--resume", str(kept), "--shard-images", str(KILLED_IMAGES // SHARDS)
    )
    wait_for(kept, 3)
    killed = comparing_workers(validation.pid)[:1]
    for process in killed:
        os.kill(process, signal.SIGKILL)
    report, wall_s, _ = validation.wait()
    return report, wall_s, len(killed)


if __name__ == "__main__":
    main()
