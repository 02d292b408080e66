"""The embedded network: what ships is what was measured."""

import csv
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from squeeze_export import demo
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.measure.statistics import wilson
from squeeze_export.nets.architecture import architecture_from_json, tensor_shapes
from tools.demo import train
from tools.demo.drawn import CLASS_NAMES, draw_batch

DOCS = Path(__file__).parents[2] / "docs" / "demo-network.md"
TEST_SEED = 6  # used nowhere else: not in training, calibration, evaluation or the measurement
FOLDERS = {"calib": (demo.calibration_folder, 120, 3), "eval": (demo.evaluation_folder, 240, 4)}


@pytest.fixture(scope="module")
def checkpoint():
    """The tensors as float32, and the metadata."""
    with safe_open(demo.weights_path(), "numpy") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        return tensors, file.metadata()


def _rows(folder):
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_labels_are_the_drawn_classes():
    assert demo.labels() == CLASS_NAMES
    assert len(CLASS_NAMES) == demo.CLASS_COUNT == demo.ARCHITECTURE.class_count


def test_weights_are_fp16_and_fit_the_architecture(checkpoint):
    tensors, _ = checkpoint
    assert {key: value.shape for key, value in tensors.items()} == tensor_shapes(demo.ARCHITECTURE)
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(value).all() for value in tensors.values())


def test_metadata_describes_the_network(checkpoint):
    _, metadata = checkpoint
    assert architecture_from_json(json.loads(metadata["architecture"])) == demo.ARCHITECTURE
    assert json.loads(metadata["preprocess"]) == json.loads(json.dumps(demo.PREPROCESS.to_json()))
    assert tuple(json.loads(metadata["labels"])) == CLASS_NAMES
    assert metadata["trained_by"] == demo.measured()["command"]
    assert metadata["top1"].startswith(f"{demo.measured()['fp32_top1_of_fp16_weights']['value']:.4f} ")


def test_weights_are_the_measured_ones():
    data = demo.weights_path().read_bytes()
    assert demo.measured()["weights"] == {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}


def test_sizes_stay_small():
    assert demo.weights_path().stat().st_size < 1_600_000
    images = [*demo.calibration_folder().rglob("*.jpg"), *demo.evaluation_folder().rglob("*.jpg")]
    assert sum(path.stat().st_size for path in images) < 1_500_000


@pytest.mark.parametrize("name", FOLDERS)
def test_manifest_names_every_file_and_its_class(name):
    place, count, seed = FOLDERS[name]
    rows = _rows(place())
    assert len(rows) == count
    assert list(rows[0]) == ["file", "class_index", "label", "seed"]
    assert {row["file"] for row in rows} == {path.relative_to(place()).as_posix() for path in place().rglob("*.jpg")}
    assert {row["seed"] for row in rows} == {str(seed)}
    for row in rows:
        assert row["label"] == CLASS_NAMES[int(row["class_index"])]
        assert row["label"] in row["file"]
    per_class = np.bincount([int(row["class_index"]) for row in rows])
    np.testing.assert_array_equal(per_class, np.full(demo.CLASS_COUNT, count // demo.CLASS_COUNT))


@pytest.mark.parametrize("name", FOLDERS)
def test_files_are_the_seeds_draws(name):
    place, count, seed = FOLDERS[name]
    drawn, _ = draw_batch(seed, count)
    for index, row in enumerate(_rows(place())):
        with Image.open(place() / row["file"]) as file:
            pixels = np.asarray(file.convert("RGB"))
        assert pixels.shape == (demo.INPUT_PX, demo.INPUT_PX, 3)
        assert np.abs(pixels.astype(int) - drawn[index]).mean() < 16  # JPEG, and sensor noise that it drops


def test_calibration_and_evaluation_share_no_image():
    hashes = [
        {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.jpg")}
        for folder in (demo.calibration_folder(), demo.evaluation_folder())
    ]
    assert [len(found) for found in hashes] == [120, 240]
    assert not hashes[0] & hashes[1]
    assert len({train.TRAIN_SEED, train.FRESH_SEED, train.CALIBRATION_SEED, train.EVALUATION_SEED, TEST_SEED}) == 5


def test_measured_accuracy_is_hard_enough():
    accuracy = demo.measured()["fp32_top1_of_fp16_weights"]
    assert accuracy["count"] >= 4_800
    assert 0.90 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 0.97
    expected = wilson(round(accuracy["value"] * accuracy["count"]), accuracy["count"])
    assert {key: accuracy[key] for key in ("value", "low", "high")} == pytest.approx(asdict(expected))


def test_the_shipped_network_recognises_fresh_draws(checkpoint):
    tensors = {key: value.astype(np.float32) for key, value in checkpoint[0].items()}
    images, labels = draw_batch(TEST_SEED, 480)
    assert 0.88 <= _top1(tensors, images, labels) <= 0.99
    broken = tensors | {"features.0.weight": -tensors["features.0.weight"]}
    assert _top1(broken, images[:96], labels[:96]) < 0.5  # negative control


def _top1(tensors, images, labels):
    return np.mean(FloatRunner(build_graph(demo.ARCHITECTURE, tensors, demo.PREPROCESS))(images).argmax(1) == labels)


def test_docs_quote_the_measurement():
    text, measured = DOCS.read_text(encoding="utf-8"), demo.measured()
    accuracy = measured["fp32_top1_of_fp16_weights"]
    quotes = [f"{100 * accuracy[key]:.2f}%" for key in ("value", "low", "high")]
    quotes += [f"{accuracy['count']:,}", f"{measured['plan']['train_count']:,}", f"{measured['train_s']:.0f} s", train.COMMAND]
    quotes += [f"{100 * measured['evaluation_images_top1']:.1f}%", measured["host"]["cpu"], measured["versions"]["torch"]]
    quotes += [f"| {name} | {100 * share:.1f} |" for name, share in accuracy["per_class"].items()]
    assert [quote for quote in quotes if quote not in text] == []
