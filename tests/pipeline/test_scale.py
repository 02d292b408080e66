"""Validation at scale: resumed, on Ray, and written image by image, always with the figures of one process."""

import dataclasses
import json
import os
import shutil
import signal
import sys
import types
from pathlib import Path

import pytest

from squeeze_export.errors import BadInput, NotInstalled, Refused, Unavailable
from squeeze_export.pipeline import RunOptions, Scale, validate_files
from squeeze_export.pipeline.export import sidecar_path
from squeeze_export.pipeline.journal import NAME


@pytest.fixture
def labelled(tiny, tmp_path):
    """24 labelled images, of which 20.png is a copy of 01.png."""
    folder = tmp_path / "many"
    folder.mkdir()
    for index, file in enumerate([*sorted((tiny / "eval").glob("*.png")), *sorted((tiny / "calib").glob("*.png"))][:24]):
        shutil.copy(file, folder / f"{index:02}.png")
    shutil.copy(folder / "01.png", folder / "20.png")
    (folder / "val.txt").write_text("\n".join(f"{index:02}.png {index % 5}" for index in range(24)))
    return folder / "val.txt"


@pytest.fixture
def validated(network, made, labelled):
    """Validates an int8 ONNX and an fp32 TFLite file; what the report says of them."""

    def run(progress=lambda what, done, total: None, files=("onnx", "tflite"), **scale):
        paths = [made[target, scheme].path for target, scheme in zip(files, ("int8", "fp32"), strict=True)]
        report = validate_files(paths, network, labelled, scale=Scale(**scale), progress=progress)
        return dataclasses.replace(report, created="", host={})

    return run


# --- resumed


class Stopped(Exception):
    """Somebody pulls the plug."""


def stop_after(images):
    def progress(what, done, total):
        if done >= images:
            raise Stopped

    return progress


def test_a_validation_that_was_stopped_goes_on_to_the_same_digits(validated, tmp_path):
    whole = validated()
    scale = {"resume": tmp_path / "kept", "shard_images": 4}
    with pytest.raises(Stopped):
        validated(stop_after(14), **scale)
    shards = sorted((tmp_path / "kept").glob("shard-*"))
    assert [path.name for path in shards] == [f"shard-{start:09}.safetensors" for start in (0, 4, 8)]
    written = {path: path.stat().st_mtime_ns for path in shards}
    assert validated(**scale) == whole
    assert {path: path.stat().st_mtime_ns for path in shards} == written  # nothing was done twice
    shutil.rmtree(tmp_path / "kept")
    assert validated(**scale) == whole


def test_kept_shards_count(validated, tmp_path):
    """The negative control: a shard of other answers shows in the figures, so kept shards are really read."""
    whole = validated(resume=tmp_path / "kept", shard_images=12)
    first, second = sorted((tmp_path / "kept").glob("shard-*"))
    done = []
    assert validated(lambda what, count, total: done.append(count), resume=tmp_path / "kept", shard_images=12) == whole
    assert done == [0, 24]  # no batch in between
    second.unlink()
    assert validated(resume=tmp_path / "kept", shard_images=12) == whole
    first.write_bytes(second.read_bytes())
    with pytest.raises(BadInput, match=r"shard-000000000\.safetensors` is damaged: it is of another version or place"):
        validated(resume=tmp_path / "kept", shard_images=12)


def test_a_shard_whose_images_have_changed_is_compared_again(validated, labelled, tmp_path):
    scale = {"resume": tmp_path / "kept", "shard_images": 4}
    whole = validated(**scale)
    shutil.copy(labelled.parent / "02.png", labelled.parent / "20.png")
    changed = validated(**scale)
    assert changed.images == whole.images  # a duplicate of another image now: nothing that counts has changed
    assert changed.warnings != whole.warnings
    shutil.copy(labelled.parent / "03.png", labelled.parent / "00.png")
    assert validated(**scale) == validated()
    assert validated().images != whole.images


def test_another_validation_is_refused(validated, tmp_path):
    kept = tmp_path / "kept"
    validated(resume=kept, shard_images=12)
    with pytest.raises(BadInput, match=r"the shards in `.*kept` are of another --shard-images than this validation"):
        validated(resume=kept, shard_images=6)
    with pytest.raises(BadInput, match=r"are of other files than this validation"):
        validated(resume=kept, shard_images=12, files=("tflite", "onnx"))
    document = json.loads((kept / NAME).read_text())
    (kept / NAME).write_text(json.dumps({**document, "tools": {**document["tools"], "numpy": "1.0"}}))
    with pytest.raises(BadInput, match=r"are of other versions of the tools than"):
        validated(resume=kept, shard_images=12)


@pytest.mark.parametrize("place", [10, 3000])
def test_a_damaged_shard_is_refused(validated, tmp_path, place):
    validated(resume=tmp_path / "kept")
    (shard,) = (tmp_path / "kept").glob("shard-*")
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
    with pytest.raises(BadInput, match=r"shard-000000000\.safetensors` is damaged"):
        validated(resume=tmp_path / "kept")


def test_a_folder_of_something_else_is_refused(validated, labelled):
    with pytest.raises(BadInput, match=r"holds no validation to go on with"):
        validated(resume=labelled.parent)


# --- image by image


def test_rows_of_images_add_up_to_the_report(validated, tmp_path, labelled):
    report = validated(per_image=tmp_path / "images.jsonl", shard_images=5)
    rows = [json.loads(line) for line in (tmp_path / "images.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == list(report.images.names.texts())
    assert "20.png" not in [row["image"] for row in rows]
    assert int(rows[0]["sha256"][:16], 16) >> 1 == report.images.hashes.numbers()[0]
    assert [row["label"] for row in rows] == report.images.labels.numbers().tolist()
    for index, row in enumerate(report.measurements):
        files = [image["files"][index] for image in rows]
        assert {(file["file"], file["runtime"]) for file in files} == {(row.artifact, row.runtime)}
        assert [file["top1"] for file in files] == row.answers.top1.numbers().tolist()
        assert sum(file["label_rank"] == 0 for file in files) == row.accuracy.top1 * 23
        assert all(file["margin"] >= 0 and file["signal"] > 0 for file in files)
    right = sum(image["reference"]["label_rank"] == 0 for image in rows)
    assert right == report.measurements[0].accuracy.reference_top1 * 23


def test_parquet_holds_the_same_rows(validated, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    validated(per_image=tmp_path / "images.parquet")
    validated(per_image=tmp_path / "images.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "images.jsonl").read_text().splitlines()]
    assert parquet.read_table(tmp_path / "images.parquet").to_pylist() == lines


def test_what_cannot_be_written_is_refused_before_any_work(validated, tmp_path, monkeypatch):
    for name, why in (("images.csv", "ends in neither"), ("gone/images.jsonl", "cannot be written")):
        with pytest.raises(BadInput, match=why):
            validated(per_image=tmp_path / name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NotInstalled, match="`pyarrow` is not installed") as caught:
        validated(per_image=tmp_path / "images.parquet")
    assert (caught.value.exit_code, caught.value.hint) == (3, "pip install 'squeeze-export[parquet]'")
    assert not list(tmp_path.glob("*images*"))


# --- on Ray


def ray_workers():
    """Process ids of this process's Ray workers that are comparing."""
    parents, working = {}, []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                working += [int(folder.name)] if b"ray::compare_part" in (folder / "cmdline").read_bytes() else []
            except (OSError, ValueError):
                continue

    def is_ours(process):
        while process in parents:
            if process == os.getpid():
                return True
            process = parents[process]
        return False

    return [process for process in working if is_ours(process)]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes are Ray's")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_ray_gives_the_same_digits_even_if_a_worker_is_killed(validated, tmp_path, monkeypatch, capsys):
    ray = pytest.importorskip("ray")
    whole, killed = validated(), []
    monkeypatch.setattr("squeeze_export.pipeline.cluster.usable_cores", lambda: 2)

    def kill_one(what, done, total):
        for process in ray_workers()[:1] if not killed else ():
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    found = validated(kill_one, engine="ray", shard_images=1, per_image=tmp_path / "ray.jsonl")
    assert found == whole
    assert killed
    assert capsys.readouterr() == ("", "")  # Ray itself tells of a worker's death on stdout
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not ray.is_initialized()
    validated(per_image=tmp_path / "local.jsonl")
    assert (tmp_path / "ray.jsonl").read_text() == (tmp_path / "local.jsonl").read_text()


class Inline:
    """Ray's functions, each task run in this process as its result is asked for.

    Args:
        meanwhile: called once everything has been told to the workers, and before they begin.
    """

    class RayError(Exception):
        """What Ray raises."""

    exceptions = types.SimpleNamespace(RayError=RayError)

    def __init__(self, meanwhile=lambda: None):
        self.meanwhile = meanwhile

    def is_initialized(self):
        return True

    def remote(self, **settings):
        return lambda function: types.SimpleNamespace(remote=lambda *values: (function, values))

    def put(self, value):
        return value

    def cluster_resources(self):
        return {"CPU": 3.0}

    def wait(self, running):
        self.meanwhile()
        self.meanwhile = lambda: None
        return running[-1:], running[:-1]  # the last one is done first

    def get(self, task):
        function, values = task
        return function(*values)


@pytest.fixture
def own(made, tmp_path):
    """A file of this test's own."""
    for file in (made["onnx", "int8"].path, sidecar_path(made["onnx", "int8"].path)):
        shutil.copy(file, tmp_path)
    return tmp_path / made["onnx", "int8"].path.name


def test_workers_check_that_they_have_the_same_files(network, own, labelled, monkeypatch):
    def on_ray(meanwhile):
        monkeypatch.setitem(sys.modules, "ray", Inline(meanwhile))
        return validate_files([own], network, labelled, scale=Scale("ray", shard_images=5))

    here = validate_files([own], network, labelled)
    assert on_ray(lambda: None).measurements == here.measurements
    image, data = labelled.parent / "07.png", own.read_bytes()
    with pytest.raises(BadInput, match="a worker of Ray's sees other images below") as caught:
        on_ray(lambda: image.write_bytes(image.read_bytes() + b" "))
    assert caught.value.hint == "files and images must be under the same paths on every machine"
    with pytest.raises(BadInput, match="a worker of Ray's sees another file at"):
        on_ray(lambda: own.write_bytes(data[:-1] + bytes([data[-1] ^ 1])))
    own.write_bytes(data)
    monkeypatch.setattr("squeeze_export.pipeline.cluster.__version__", "0.0.1")
    assert on_ray(lambda: None).measurements == here.measurements
    with pytest.raises(Refused, match=r"a worker of Ray's has version 0\.0\.2 of this tool, not 0\.0\.1"):
        on_ray(lambda: monkeypatch.setattr("squeeze_export.pipeline.cluster.__version__", "0.0.2"))


def test_shards_are_kept_when_ray_gives_up(network, own, labelled, monkeypatch, tmp_path):
    class Dying(Inline):
        """Its workers die with the third task."""

        count = 0

        def get(self, task):
            self.count += 1
            if self.count == 3:
                raise self.RayError("the worker died")
            return super().get(task)

    scale = Scale("ray", shard_images=5, resume=tmp_path / "kept")
    monkeypatch.setitem(sys.modules, "ray", Dying())
    with pytest.raises(Unavailable, match="Ray gave up on a shard after 3 more tries: RayError") as caught:
        validate_files([own], network, labelled, scale=scale)
    assert caught.value.hint == "the finished shards are kept with --resume DIR"
    assert len(list((tmp_path / "kept").glob("shard-*"))) == 2
    resumed = validate_files([own], network, labelled, scale=dataclasses.replace(scale, engine="local"))
    assert resumed.measurements == validate_files([own], network, labelled).measurements


def test_engines(validated, network, made, labelled, monkeypatch):
    with pytest.raises(BadInput, match="there is no engine `spark`"):
        validated(engine="spark")
    with pytest.raises(BadInput, match="--shard-images `0` is below 1"):
        validated(shard_images=0)
    with pytest.raises(BadInput, match="Ray's workers run files on their own CPUs"):
        validate_files([made["onnx", "int8"].path], network, labelled, options=RunOptions(cpus=(0,)), scale=Scale("ray"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotInstalled, match="`ray` is not installed"):
        validated(engine="ray")
