"""calibrate: several folders with weights from every source, and the curve."""

import json
import os
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_export.graph.table import read_table

TABLE = Path("squeeze-export-out/squeezenet_custom.int8.table")


@pytest.fixture
def network(tiny):
    """The tiny network alone."""
    return ("--weights", tiny / "tiny.safetensors")


@pytest.fixture
def halves(tiny, tmp_path):
    """`day` with 12 of the calibration images and `night` with 8, in the current folder; gives their names."""
    for index, file in enumerate(sorted((tiny / "calib").iterdir())):
        folder = tmp_path / ("day" if index < 12 else "night")
        folder.mkdir(exist_ok=True)
        shutil.copy(file, folder)
    return ("day", "night")


def told(result):
    """Name -> (image count, weight), from the table that a command has written."""
    assert result.code == 0, result.err
    return {f["name"]: (f["image_count"], f["weight"]) for f in read_table(TABLE).provenance["folders"]}


# --- folders and weights


def test_folders_with_weights(squeeze, network, halves):
    result = squeeze("calibrate", *network, "--calib", "day", "--calib", "night", "--calib-weight", 1, "--calib-weight", 2)
    assert told(result) == {"day": (12, 1), "night": (8, 2)}


def test_folders_without_weights(squeeze, network, halves):
    assert told(squeeze("calibrate", *network, "--calib", "night", "--calib", "day")) == {"night": (8, 1), "day": (12, 1)}


def test_json_names_the_folders(squeeze, network, halves):
    arguments = ("--calib", "day", "--calib", "night", "--calib-weight", 3, "--calib-weight", 1, "--json")
    facts = json.loads(squeeze("calibrate", *network, *arguments).out)
    assert facts["source"] == "day, night"
    assert facts["folders"] == [
        {"name": "day", "image_count": 12, "weight": 3},
        {"name": "night", "image_count": 8, "weight": 1},
    ]


def test_an_export_takes_them_too(squeeze, network, halves):
    arguments = ("--calib", "day", "--calib", "night", "--calib-weight", 1, "--calib-weight", 2, "--no-bench", "--json")
    report = json.loads(squeeze("onnx", "--int8", *network, *arguments).out)
    assert report["calibration"]["folders"][1] == {"name": "night", "image_count": 8, "weight": 2}
    assert report["evaluation"]["source"] == "day, night"


def test_in_the_settings_file(squeeze, network, halves):
    Path("squeeze-export.toml").write_text('calib = ["day", "night"]\ncalib-weight = [1, 2]\n')
    assert told(squeeze("calibrate", *network)) == {"day": (12, 1), "night": (8, 2)}


def test_one_folder_in_the_settings_file_needs_no_list(squeeze, network, tiny):
    Path("squeeze-export.toml").write_text(f'calib = "{(tiny / "calib").as_posix()}"\n')
    assert told(squeeze("calibrate", *network)) == {"calib": (20, 1)}


def test_in_the_environment(squeeze, network, halves, monkeypatch):
    monkeypatch.setenv("SQUEEZE_EXPORT_CALIB", os.pathsep.join(halves))
    monkeypatch.setenv("SQUEEZE_EXPORT_CALIB_WEIGHT", "1 2")
    assert told(squeeze("calibrate", *network)) == {"day": (12, 1), "night": (8, 2)}


@pytest.mark.parametrize("name", ["a b", "a=2", "night:2", "2", "-day", "x,y"])
def test_no_folder_name_is_taken_for_anything_else(name, squeeze, network, tiny, tmp_path, monkeypatch):
    if sys.platform == "win32" and ":" in name:
        pytest.skip("Windows allows no such name")
    shutil.copytree(tiny / "calib", tmp_path / name)
    monkeypatch.setenv("SQUEEZE_EXPORT_CALIB", name)
    assert told(squeeze("calibrate", *network)) == {name: (20, 1)}
    monkeypatch.delenv("SQUEEZE_EXPORT_CALIB")
    assert told(squeeze("calibrate", *network, f"--calib={name}")) == {name: (20, 1)}


def test_an_option_beats_the_environment(squeeze, network, halves, tiny, monkeypatch):
    monkeypatch.setenv("SQUEEZE_EXPORT_CALIB", os.pathsep.join(halves))
    assert told(squeeze("calibrate", *network, "--calib", tiny / "calib")) == {"calib": (20, 1)}


def test_weights_stay_with_the_folders_they_were_given_with(squeeze, network, halves, tiny, monkeypatch):
    Path("squeeze-export.toml").write_text('calib = ["day", "night"]\ncalib-weight = [1, 2]\n')
    assert told(squeeze("calibrate", *network, "--calib", tiny / "calib")) == {"calib": (20, 1)}
    assert told(squeeze("calibrate", *network, "--calib-weight", 4, "--calib-weight", 1)) == {"day": (12, 4), "night": (8, 1)}
    monkeypatch.setenv("SQUEEZE_EXPORT_CALIB", os.pathsep.join(reversed(halves)))
    assert told(squeeze("calibrate", *network)) == {"night": (8, 1), "day": (12, 1)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--calib", "day", "--calib-weight", 1, "--calib-weight", 2),
            "--calib-weight is given `2` times for `1` folders of --calib",
        ),
        (
            ("--calib", "day", "--calib", "night", "--calib-weight", 2),
            "--calib-weight is given `1` times for `2` folders of --calib",
        ),
        (("--calib-weight", 2), "--calib-weight is given `1` times for `0` folders of --calib"),
    ],
)
def test_weights_that_fit_no_folders(arguments, message, squeeze, network, halves):
    result = squeeze("calibrate", *network, *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.refusal() == (message, "one weight for each folder, in their order")
    assert not TABLE.parent.exists()


@pytest.mark.parametrize("weight", ["0", "101", "-1", "0.5", "two", ""])
def test_weights_that_are_none(weight, squeeze, network, halves):
    result = squeeze("calibrate", *network, "--calib", "day", "--calib-weight", weight)
    assert (result.code, result.out) == (2, "")
    assert "--calib-weight" in result.refusal()[0]


def test_the_vendors_refuse_folders_in_the_plural(squeeze, network, halves):
    result = squeeze("onnx", "--int8", "--recipe", "vendor", *network, "--calib", "day", "--calib", "night")
    assert result.code == 2
    assert result.refusal()[0] == "the recipe `vendor` takes one calibration folder, not `2`"


# --- images that cannot calibrate


def test_noise_is_refused(squeeze, network, tiny, tmp_path):
    shutil.copytree(tiny / "calib", tmp_path / "imgs")
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "imgs" / "05b.jpg")
    result = squeeze("calibrate", *network, "--calib", "imgs")
    message, hint = result.refusal()
    assert result.code == 2
    assert message.startswith("`1` of `21` calibration images are noise, the first is `imgs")
    assert hint.startswith("remove them")
    assert not TABLE.exists()


def test_a_copy_in_another_format_is_left_out(squeeze, network, tiny, tmp_path):
    shutil.copytree(tiny / "calib", tmp_path / "imgs")
    Image.open(tmp_path / "imgs" / "03.png").save(tmp_path / "imgs" / "99.bmp")
    result = squeeze("calibrate", *network, "--calib", "imgs")
    assert result.code == 0
    assert "warning: `1` duplicate calibration images were left out: `99.bmp` shows the same as `03.png`\n" in result.err
    assert "  20 images, recipe fast" in result.out


def test_evaluation_images_of_another_kind_are_a_warning(squeeze, net, tiny, tmp_path):
    (tmp_path / "grey").mkdir()
    for file in (tiny / "calib").iterdir():
        Image.open(file).convert("L").save(tmp_path / "grey" / file.name)
    result = squeeze("onnx", "--int8", *net, "--eval", "grey", "--no-bench")
    assert result.code == 0
    (line,) = [line for line in result.err.splitlines() if "differ in kind" in line]
    assert line.startswith("warning: the calibration images differ in kind from the evaluation images (medians: colourfulness")
    report = json.loads(Path("squeeze-export-out/report.json").read_text())
    assert line.removeprefix("warning: ") in report["warnings"]


# --- the curve


def test_the_curve(squeeze, net, tiny):
    result = squeeze("calibrate", *net, "--curve", "--eval", tiny / "eval")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith(f"{TABLE}  20 images, recipe fast, sha256 ")
    assert lines[1].split() == ["images", "agreement", "SQNR", "to", "the", "largest"]
    assert [line.split()[0] for line in lines[2:4]] == ["16", "20"]
    assert lines[3].endswith(" dB               -") or lines[3].split()[-1] == "-"
    assert lines[4].startswith("The agreement interval reaches that of the largest part from 16 images on; SQNR there is ")
    assert "the exact integer run against the fp32 reference on 8 images of eval; parts drawn with seed 0" in result.err
    stem = "squeezenet_custom.int8"
    assert {p.name for p in TABLE.parent.iterdir()} == {
        f"{stem}.table",
        f"{stem}.calibration-curve.json",
        f"{stem}.calibration-curve.svg",
    }
    curve = json.loads((TABLE.parent / f"{stem}.calibration-curve.json").read_text())
    assert [point["image_count"] for point in curve["points"]] == [16, 20]
    assert curve["enough_count"] == 16
    ET.parse(TABLE.parent / f"{stem}.calibration-curve.svg")


def test_the_curve_leaves_the_table_as_it_is(squeeze, net, tiny):
    assert squeeze("calibrate", *net, "--curve", "--eval", tiny / "eval").code == 0
    with_curve = TABLE.read_bytes()
    assert squeeze("calibrate", *net).code == 0
    assert TABLE.read_bytes() == with_curve


def test_the_curve_in_json(squeeze, net, tiny):
    result = squeeze("calibrate", *net, "--curve", "--eval", tiny / "eval", "--json")
    facts = json.loads(result.out)
    assert facts["image_count"] == 20
    assert facts["curve"] == json.loads((TABLE.parent / "squeezenet_custom.int8.calibration-curve.json").read_text())
    assert facts["curve"]["evaluation"] == {"source": "eval", "image_count": 8}
    assert facts["curve"]["evidence"].startswith("the exact integer run")


def test_too_few_for_a_curve(squeeze, net):
    message, hint = squeeze("calibrate", *net, "--curve").refusal()
    assert message == (
        "`20` calibration images, `5` of them held out to compare on, are too few for a curve: its smallest part has 16"
    )
    assert hint == "pass more to `--calib`, or others to `--eval`"
    assert not TABLE.exists()


def test_evaluation_images_without_a_curve(squeeze, net, tiny, monkeypatch):
    result = squeeze("calibrate", *net, "--eval", tiny / "eval")
    assert (result.code, result.out) == (2, "")
    assert result.refusal()[1] == "--curve, or leave out --eval"
    monkeypatch.setenv("SQUEEZE_EXPORT_EVAL", str(tiny / "eval"))  # a setting for the exports is none of its business
    assert squeeze("calibrate", *net).code == 0


def test_a_curve_on_the_calibration_images_is_refused(squeeze, net, tiny):
    message, _ = squeeze("calibrate", *net, "--curve", "--eval", tiny / "calib").refusal()
    assert "are calibration images too" in message
    assert not TABLE.exists()
