"""The recipe `qat` as a job: labelled images and calibration images in, trained integers out, and what is refused."""

import dataclasses
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_export.cli import run as type_command
from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.graph.quantized import FP16, INT8
from squeeze_export.pipeline import Job, calibrate, open_network, read_calibration, run, write_table
from squeeze_export.pipeline import training as training_room
from squeeze_export.pipeline.training import TRAINING, TRAINING_HASHES, Training
from squeeze_export.quant.recipes import BEST

pytest.importorskip("torch")

CLASSES = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture(scope="module")
def lessons(tmp_path_factory):
    """100 images in five folders, one per class, and the same as a manifest: nothing here may be changed."""
    folder = tmp_path_factory.mktemp("lessons")
    rows = ["file,class_index"]
    for index in range(100):
        pixels = np.random.default_rng([3, index]).integers(0, 120, (6, 6, 3), np.uint8)
        pixels[..., [[0], [1], [2], [0, 1], [1, 2]][index % 5]] += 130  # a colour of its own for each class
        file = folder / "train" / CLASSES[index % 5] / f"{index:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((48, 40), Image.Resampling.BILINEAR).save(file)
        rows.append(f"{file.relative_to(folder).as_posix()},{index % 5}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def labelled(tiny):
    """The tiny network with its class names."""
    return open_network(tiny / "tiny.safetensors", labels=tiny / "labels.txt")


@pytest.fixture(scope="module")
def calibration(labelled, tiny, lessons):
    """Calibrated and trained."""
    training = Training(lessons / "train", epochs=8, reach=5.0)
    return calibrate(labelled, tiny / "calib", recipe="qat", training=training, threads=1)


@pytest.fixture
def job(tiny, lessons, tmp_path):
    """A job with the recipe, and changes."""

    def make(**changes):
        values = {
            "weights": tiny / "tiny.safetensors",
            "calib": tiny / "calib",
            "labels": tiny / "labels.txt",
            "recipe": "qat",
            "training": Training(lessons / "train", epochs=1),
            "scheme": "int8",
            "out": tmp_path / "out",
            "bench": False,
        }
        return Job(targets=("onnx",), **(values | changes))

    return make


def test_the_table_tells_of_the_training(calibration, labelled, tiny, lessons):
    made_by = calibration.quantized.provenance
    told = made_by[TRAINING]
    assert (made_by["recipe"], told["start_recipe"], told["source"]) == ("qat", BEST, "train")
    assert (told["image_count"], told["held_out_count"], told["epochs"], told["reach"]) == (100, 10, 8, 5.0)
    assert told["seed"] == made_by["seed"] == 0
    assert (len(told["losses"]), len(told["held_out"])) == (8, 9)
    assert told["best_epoch"] > 0
    files = sorted((lessons / "train").rglob("*.png"), key=lambda file: file.parts)
    assert made_by[TRAINING_HASHES] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert made_by["image_count"] == len(made_by["image_sha256"]) == 20


def test_the_integers_differ_from_the_start_alone(calibration, labelled, tiny):
    start = calibrate(labelled, tiny / "calib", recipe=BEST).quantized
    assert calibration.quantized.tensors == start.tensors
    before, after = ([conv.weight for conv in graph.convs] for graph in (start, calibration.quantized))
    assert any((one != other).any() for one, other in zip(before, after, strict=True))
    first, limit = calibration.quantized.convs[0].weight, 64
    assert np.abs(first).max() <= limit


def test_facts(calibration):
    facts = calibration.facts()
    assert (facts["recipe"], facts["image_count"], facts["training_image_count"]) == ("qat", 20, 100)
    assert (facts["start_recipe"], facts["trained_on"], facts["best_epoch"]) == (BEST, "train", facts["best_epoch"])


def test_a_table_reads_back_with_all_its_images(calibration, tmp_path):
    write_table(calibration, tmp_path / "net.table")
    back = read_calibration(tmp_path / "net.table")
    assert back.quantized.sha256 == calibration.quantized.sha256
    assert back.image_hashes == calibration.image_hashes
    assert len(back.image_hashes) == 120
    assert back.facts() == calibration.facts() | {"source": "table net.table"}


@pytest.mark.parametrize("hashes", [3, [1]])
def test_a_table_whose_training_hashes_are_none_is_refused(hashes, calibration, tmp_path):
    quantized = dataclasses.replace(calibration.quantized, provenance={**calibration.quantized.provenance, TRAINING_HASHES: hashes})
    write_table(dataclasses.replace(calibration, quantized=quantized), tmp_path / "net.table")
    with pytest.raises(BadInput, match=f"`{TRAINING_HASHES}` is no list of hashes"):
        read_calibration(tmp_path / "net.table")


def test_a_manifest_will_do_and_the_same_seed_gives_the_same_table(calibration, labelled, tiny, lessons):
    training = Training(lessons / "train.csv", epochs=8, reach=5.0)
    again = calibrate(labelled, tiny / "calib", recipe="qat", training=training, threads=1)
    for one, other in zip(calibration.quantized.convs, again.quantized.convs, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(one.bias, other.bias)


def test_an_export_trains_and_validates(job, tiny, tmp_path):
    report = run(job(eval=tiny / "eval"))
    assert report.calibration["recipe"] == "qat"
    row = report.measurements[-1]
    assert (row.recipe, row.status) == ("qat", "ok")
    assert row.accuracy.count == 8
    sidecar = json.loads((tmp_path / "out" / "squeezenet_custom.int8.onnx.json").read_text())
    assert sidecar["provenance"]["recipe"] == "qat"


def test_evaluation_on_training_images_is_refused(job, lessons, tmp_path):
    with pytest.raises(BadInput, match=r"`100` of `100` evaluation images are training images too, .*ant/000.png") as caught:
        run(job(eval=lessons / "train"))
    assert caught.value.hint == "remove them from `--eval` or from `--train`"
    assert not (tmp_path / "out").exists()


def test_evaluation_of_a_table_on_its_training_images_is_refused(job, calibration, lessons, tmp_path):
    write_table(calibration, tmp_path / "net.table")
    changes = {"table": tmp_path / "net.table", "calib": None, "recipe": "fast", "training": None}
    with pytest.raises(BadInput, match="evaluation images are calibration images too: at least `16`"):
        run(job(eval=lessons / "train", **changes))


def test_training_that_does_no_good_is_said(labelled, tiny, lessons):
    training = Training(lessons / "train", epochs=1, reach=1e-6)
    calibration = calibrate(labelled, tiny / "calib", recipe="qat", training=training, threads=1)
    assert calibration.quantized.provenance[TRAINING]["best_epoch"] == 0
    assert calibration.warnings[-1].startswith("training made the held-out images no better")


def test_missing_classes_are_said(labelled, tiny, lessons, tmp_path):
    rows = (lessons / "train.csv").read_text().splitlines()
    for row in rows[1:]:
        name = row.split(",")[0]
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lessons / name, tmp_path / name)
    (tmp_path / "some.csv").write_text("\n".join([rows[0], *(f"{row.split(',')[0]},1" for row in rows[1:])]) + "\n")
    calibration = calibrate(labelled, tiny / "calib", recipe="qat", training=Training(tmp_path / "some.csv", epochs=1), threads=1)
    assert calibration.warnings[-1].startswith("the training images lack `4` of the network's classes")


# --- refused


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"training": None}, "the recipe `qat` needs labelled images", "--train DIR"),
        ({"recipe": "fast"}, "`--train` belongs to the recipe `qat`, not to `fast`", "--recipe qat, or leave out --train"),
        ({"scheme": "fp32"}, "the recipe `qat` makes `int8`, not `fp32`", "--int8"),
        ({"table": Path("any.table")}, "a table holds our integers; the recipe `qat` makes its own", "leave out --table"),
        ({"training": Training(Path("x"), epochs=0)}, "the epochs `0`", ""),
        ({"training": Training(Path("nowhere"))}, "`nowhere` does not exist", ""),
    ],
)
def test_what_a_job_refuses(changes, message, hint, job):
    with pytest.raises(BadInput, match=message) as caught:
        run(job(**changes))
    assert hint in (caught.value.hint or "")


def test_a_vendors_recipe_does_not_train(job):
    with pytest.raises(BadInput, match="`--train` belongs to the recipe `qat`, not to `vendor`"):
        run(job(recipe="vendor"))


def test_another_scheme(labelled, tiny, lessons):
    with pytest.raises(BadInput, match="`fp16` has no integers"):
        calibrate(labelled, tiny / "calib", scheme=FP16, recipe="qat", training=Training(lessons / "train"), threads=1)
    other = dataclasses.replace(INT8, name="int8-other")
    with pytest.raises(BadInput, match="the recipe `qat` makes `int8`, not `int8-other`"):
        calibrate(labelled, tiny / "calib", scheme=other, recipe="qat", training=Training(lessons / "train"), threads=1)


def test_images_without_labels(labelled, tiny, lessons, tmp_path):
    def attempt(path):
        calibrate(labelled, tiny / "calib", recipe="qat", training=Training(path))

    with pytest.raises(BadInput, match="has no labels to train on"):
        attempt(tiny / "calib")
    rows = (lessons / "train.csv").read_text().splitlines()
    bare = lessons / "bare.csv"
    bare.write_text("\n".join([*rows[:-1], rows[-1].split(",")[0] + ","]) + "\n")
    with pytest.raises(BadInput, match=r"`1` of `100` training images have no label, the first is `train/eel/099.png`"):
        attempt(bare)
    few = lessons / "few.csv"
    few.write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(BadInput, match="`99` training images are too few"):
        attempt(few)


def test_classes_that_are_not_the_networks(tiny, lessons):
    unnamed = open_network(tiny / "tiny.safetensors")
    other = lessons / "four"
    for name in CLASSES[:4]:
        shutil.copytree(lessons / "train" / name, other / name, dirs_exist_ok=True)
    with pytest.raises(BadInput, match="`4` folders cannot be matched to `5` classes"):
        calibrate(unnamed, tiny / "calib", recipe="qat", training=Training(other))


def test_folders_that_have_other_names_than_their_classes_are_a_warning(tiny, lessons, labelled):
    unnamed = open_network(tiny / "tiny.safetensors")
    assert training_room.read_training(labelled, lessons / "train", threads=1)[1] == ()
    batch, warnings = training_room.read_training(unnamed, lessons / "train", threads=1)
    assert warnings == (
        "`5` of `5` training folders or labels have no class's name letter for letter (folders in alphabetical order, one per"
        " class): the first is `ant` as class `0`",
    )
    assert len(batch.files) == 100


def test_more_images_than_memory_may_hold(labelled, tiny, lessons, monkeypatch):
    monkeypatch.setattr(training_room, "MAX_LOADED_BYTES", 99 * 32 * 32 * 3)
    with pytest.raises(BadInput, match="`100` training images do not fit") as caught:
        calibrate(labelled, tiny / "calib", recipe="qat", training=Training(lessons / "train"), threads=1)
    assert "at most 99" in caught.value.hint


def test_without_torch(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Unavailable, match="`torch` is not installed") as caught:
        run(job())
    assert caught.value.hint == "pip install 'squeeze-export[torch]'"


# --- typed


@pytest.fixture
def typed(tiny, lessons, tmp_path, monkeypatch, capsys):
    """`squeeze-export calibrate` on the tiny network: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    net = ("--weights", tiny / "tiny.safetensors", "--calib", tiny / "calib", "--labels", tiny / "labels.txt")

    def call(*arguments):
        code = type_command([str(a) for a in ("calibrate", *net, *arguments)])
        return code, *capsys.readouterr()

    return call


def test_calibrate_says_what_training_did(typed, lessons):
    options = ("--recipe", "qat", "--train", lessons / "train", "--train-epochs", 1, "--train-reach", 30, "--train-flip")
    code, out, err = typed(*options)
    assert code == 0, err
    assert "20 images, recipe qat" in out
    assert "of 1, on 10 images held out: loss " in out
    code, out, _ = typed(*options, "--json")
    facts = json.loads(out)
    assert (facts["recipe"], facts["training_image_count"]) == ("qat", 100)
    table = read_calibration(Path(facts["table"])).quantized.provenance[TRAINING]
    assert (table["epochs"], table["reach"], table["flip"]) == (1, 30.0, True)


def test_typed_options_that_contradict_each_other(typed, lessons):
    train = ("--train", lessons / "train")
    for options, message in (
        (("--train-epochs", 2), "`--train-epochs` says how to train"),
        (("--recipe", "qat"), "the recipe `qat` needs labelled images"),
        (train, "`--train` belongs to the recipe `qat`, not to `fast`"),
        (("--recipe", "qat", *train, "--curve"), "--curve works with calibration alone"),
        (("--recipe", "qat", *train, "--train-reach", -1), "the reach `-1.0`"),
    ):
        code, out, err = typed(*options)
        assert (code, out) == (2, ""), options
        assert message in err


def test_settings_of_another_recipe_do_not_matter(typed, lessons, monkeypatch):
    monkeypatch.setenv("SQUEEZE_EXPORT_TRAIN", str(lessons / "train"))
    code, out, _ = typed()
    assert code == 0
    assert "recipe fast" in out
