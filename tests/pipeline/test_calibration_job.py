"""Calibration as a job: images in, integers and what is to be said of them out."""

import dataclasses
import hashlib

import pytest

from squeeze_export import demo
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.pipeline import calibrate, open_network, read_calibration, write_table


@pytest.fixture(scope="module")
def calibration(network, tiny):
    """Calibrated on its images."""
    return calibrate(network, tiny / "calib")


def test_facts(calibration):
    assert calibration.facts() == {
        "source": "calib",
        "image_count": 20,
        "recipe": "fast",
        "seed": 0,
        "scheme": "int8",
        "table_sha256": calibration.quantized.sha256,
    }
    assert calibration.warnings == ("`20` calibration images are few: ranges are steadier with 100 or more",)


def test_the_table_tells_who_made_it(calibration, network, tiny):
    made_by = calibration.quantized.provenance
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tiny / "calib").iterdir())]
    assert made_by["image_sha256"] == list(calibration.image_hashes) == hashes
    assert made_by["checkpoint_sha256"] == network.graph.checkpoint_sha256
    assert (made_by["network"], made_by["image_count"]) == ("squeezenet_custom", 20)


def test_the_same_images_and_seed_give_the_same_table(calibration, network, tiny):
    again = calibrate(network, tiny / "calib", threads=1)
    assert again.quantized.sha256 == calibration.quantized.sha256
    other = calibrate(network, tiny / "eval" / "..", seed=0, skip_broken=True)  # both folders: other images
    assert other.quantized.sha256 != calibration.quantized.sha256


def test_a_table_reads_back(calibration, tmp_path):
    write_table(calibration, tmp_path / "net.table")
    back = read_calibration(tmp_path / "net.table")
    assert back.quantized.sha256 == calibration.quantized.sha256
    assert (back.image_hashes, back.source) == (calibration.image_hashes, "table net.table")
    assert list(tmp_path.iterdir()) == [tmp_path / "net.table"]


@pytest.mark.parametrize("hashes", [3, "abc", [1, 2], {"a": 1}])
def test_a_table_whose_image_hashes_are_none_is_refused(hashes, calibration, tmp_path):
    quantized = dataclasses.replace(calibration.quantized, provenance={**calibration.quantized.provenance, "image_sha256": hashes})
    write_table(dataclasses.replace(calibration, quantized=quantized), tmp_path / "net.table")
    with pytest.raises(BadInput, match="no list of hashes"):
        read_calibration(tmp_path / "net.table")


def test_the_demo_network_brings_its_images():
    calibration = calibrate(open_network())
    assert (calibration.source, len(calibration.image_hashes)) == ("the demo network's own images", 120)
    assert calibration.warnings == ()
    assert calibration.quantized.labels == demo.labels()


def test_progress_is_told(network, tiny):
    told = []
    calibrate(network, tiny / "calib", progress=lambda what, done, total: told.append((what, done, total)))
    assert ("reading images", 20, 20) in told
    assert len({what for what, _, _ in told}) > 1


def test_broken_images_can_be_left_out(network, tiny, tmp_path):
    for file in (tiny / "calib").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "02.png").write_bytes(b"torn")
    with pytest.raises(BadInput, match="`1` of `20` images cannot be read"):
        calibrate(network, tmp_path)
    calibration = calibrate(network, tmp_path, skip_broken=True)
    assert len(calibration.image_hashes) == 19
    assert calibration.warnings[-1] == "`1` unreadable calibration images were left out, the first is `02.png`"


def test_no_images(network):
    with pytest.raises(BadInput, match="integers need calibration images"):
        calibrate(network)


def test_unknown_recipe(network, tiny):
    with pytest.raises(BadInput, match="no recipe is called `finest`") as caught:
        calibrate(network, tiny / "calib", recipe="finest")
    assert caught.value.hint == "did you mean `fast`? one of: fast, best, qat"


def test_a_scheme_without_integers(network, tiny):
    with pytest.raises(BadInput, match="`fp32` has no integers"):
        calibrate(network, tiny / "calib", scheme=FP32)
    assert INT8.integer
