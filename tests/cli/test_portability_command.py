"""`validate --table`, with and without `--portability`: what is printed, and what is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import draw_images

OUT = Path("squeeze-export-out")
INT8 = OUT / "squeezenet_custom.int8.onnx"
TABLE = OUT / "squeezenet_custom.int8.table"


@pytest.fixture
def exported(squeeze, net):
    """The tiny network as int8 ONNX, from its table."""
    assert squeeze("calibrate", *net).code == 0
    assert squeeze("onnx", "--int8", "--table", TABLE, *net[:2], "--no-validate", "--no-bench").code == 0


def test_it_prints_the_emulated_row_and_what_saturated(squeeze, net, tiny, exported):
    result = squeeze("validate", INT8, "--portability", "--table", TABLE, *net[:2], "--eval", tiny / "eval")
    assert result.code == 0, result.err
    _, measured, emulated, *rest = result.out.splitlines()
    assert measured.split()[:4] == ["onnx", "int8", "cpu,", "onnxruntime"]
    assert emulated.startswith("onnx    int8    cpu, int16 saturation (emulated)")
    assert any(line.split()[:5] == ["integer", "run", "int16", "saturation", "(emulated)"] for line in rest)
    assert rest[-1].startswith("emulated CPU without VNNI, 8 images, against the exact integers: ")
    assert "pairs of products saturate" in rest[-1]


def test_in_json(squeeze, net, tiny, exported):
    arguments = ("--portability", "--table", TABLE, *net[:2], "--eval", tiny / "eval", "--emulated-images", 3, "--json")
    result = squeeze("validate", INT8, *arguments)
    document = json.loads(result.out)
    assert [row["evidence"] for row in document["measurements"]] == ["measured", "emulated"]
    assert [row["accuracy"]["count"] for row in document["measurements"]] == [8, 3]
    assert document["evaluation"]["portability"]["image_count"] == 3
    assert [pair["second"] for pair in document["differences"]] == ["int16 saturation (emulated)"]


@pytest.mark.parametrize("form", ["table", "markdown", "html"])
def test_a_stored_report_shows_it(form, squeeze, net, tiny, exported):
    arguments = ("--portability", "--table", TABLE, *net[:2], "--eval", tiny / "eval", "--json")
    Path("report.json").write_text(squeeze("validate", INT8, *arguments).out)
    result = squeeze("report", "report.json", "--format", form)
    assert result.code == 0, result.err
    assert "int16 saturation" in result.out
    assert "emulated" in result.out


def test_without_a_table(squeeze, net, exported):
    result = squeeze("validate", INT8, "--portability", *net[:2])
    assert result.code == 2
    assert result.refusal() == (
        "--portability needs the integers that the files hold",
        "--table FILE, which `calibrate` writes",
    )


@pytest.mark.parametrize("scale", [("--engine", "ray"), ("--resume", "kept"), ("--per-image", "images.jsonl")])
def test_it_keeps_all_images_here(squeeze, net, exported, scale):
    result = squeeze("validate", INT8, "--portability", "--table", TABLE, *net[:2], *scale)
    assert result.code == 2
    assert result.refusal() == (
        "--portability compares all images here and at once",
        "leave out --engine, --resume, --shard-images and --per-image",
    )
    assert not Path("kept").exists()


def test_a_table_without_it_tells_whether_the_images_are_alike(squeeze, net, tiny, exported):
    Path("grey").mkdir()
    draw_images(Path("eval"), 20, seed=3)
    for file in Path("eval").iterdir():
        Image.open(file).convert("L").save(Path("grey") / file.name)
    alike = squeeze("validate", INT8, "--table", TABLE, *net[:2], "--eval", "eval")
    unlike = squeeze("validate", INT8, "--table", TABLE, *net[:2], "--eval", "grey")
    assert (alike.code, unlike.code) == (0, 0)
    assert "warning" not in alike.err
    assert "warning: the calibration images differ in kind from the evaluation images (medians: colourfulness" in unlike.err
    assert "emulated" not in unlike.out
    both = squeeze("validate", INT8, "--portability", "--table", TABLE, *net[:2], "--eval", "grey")
    assert "differ in kind" in both.err


def test_calibration_images_are_refused(squeeze, net, tiny, exported):
    result = squeeze("validate", INT8, "--table", TABLE, *net[:2], "--eval", tiny / "calib")
    assert result.code == 2
    assert "calibration" in result.refusal()[0]


def test_a_table_of_other_files(squeeze, net, tiny, exported):
    assert squeeze("calibrate", *net, "--seed", 5, "--out", "other").code == 0
    other = Path("other/squeezenet_custom.int8.table")
    result = squeeze("validate", INT8, "--table", other, *net[:2], "--eval", tiny / "eval")
    assert result.code == 2
    assert result.refusal() == (
        f"none of the files was written from the table `{other}`",
        "leave out --table, or name theirs",
    )


def test_another_table(squeeze, net, tiny, exported):
    assert squeeze("calibrate", *net, "--seed", 5, "--out", "other").code == 0
    other = Path("other/squeezenet_custom.int8.table")
    result = squeeze("validate", INT8, "--portability", "--table", other, *net[:2], "--eval", tiny / "eval")
    assert result.code == 2
    assert result.refusal() == (
        f"`{INT8.name}` was not written from the table `{other}`",
        "`calibrate` with the same images and --seed makes its table again",
    )


def test_a_damaged_table(squeeze, net, tiny, exported):
    TABLE.write_bytes(TABLE.read_bytes()[:99])
    result = squeeze("validate", INT8, "--portability", "--table", TABLE, *net[:2], "--eval", tiny / "eval")
    assert result.code == 2
    assert "is not a quantization table" in result.refusal()[0]
