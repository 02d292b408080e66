"""Several folders with weights, and evaluation images of another kind."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from squeeze_export.errors import BadInput
from squeeze_export.images.calibration import CalibrationFolder
from squeeze_export.pipeline import calibrate, calibration_curve, read_calibration, run, write_table
from squeeze_export.pipeline.calibration import APPEARANCE, FOLDERS, shift_warnings
from squeeze_export.pipeline.evaluation import Evaluation


@pytest.fixture(scope="module")
def halves(tiny, tmp_path_factory):
    """The calibration images in two folders: day of 12, night of 8, which are darker."""
    root = tmp_path_factory.mktemp("halves")
    for name in ("day", "night"):
        (root / name).mkdir()
    for index, file in enumerate(sorted((tiny / "calib").iterdir())):
        if index < 12:
            shutil.copy(file, root / "day")
        else:
            pixels = np.asarray(Image.open(file))
            Image.fromarray(pixels // 4).save(root / "night" / file.name)
    return root


def folders(root, day=1, night=1):
    return (CalibrationFolder(root / "day", day), CalibrationFolder(root / "night", night))


def same_integers(first, second):
    return first.quantized.tensors == second.quantized.tensors and all(
        np.array_equal(one.weight, other.weight) and np.array_equal(one.bias, other.bias)
        for one, other in zip(first.quantized.convs, second.quantized.convs, strict=True)
    )


def test_folders_of_equal_weight_are_one_set(network, halves, tiny):
    both = calibrate(network, folders(halves))
    together = calibrate(network, halves)  # day/ and night/ lie in it, in this order
    assert both.image_hashes == together.image_hashes
    assert same_integers(both, together)
    assert same_integers(calibrate(network, folders(halves, 7, 7)), together)
    assert same_integers(calibration_curve(network, folders(halves, 7, 7), tiny / "eval")[0], together)


def test_the_table_and_the_report_tell_each_folder(network, halves):
    calibration = calibrate(network, folders(halves, 1, 3))
    told = [{"name": "day", "image_count": 12, "weight": 1}, {"name": "night", "image_count": 8, "weight": 3}]
    assert calibration.quantized.provenance[FOLDERS] == told
    assert calibration.facts()["folders"] == told
    assert (calibration.source, calibration.facts()["image_count"]) == ("day, night", 20)
    single = calibrate(network, (CalibrationFolder(halves / "day"), CalibrationFolder(halves / "night")))
    assert single.facts()["folders"][1]["weight"] == 1
    assert "folders" not in calibrate(network, halves).facts()


def test_a_weight_moves_the_integers_and_only_it(network, halves):
    even, odd = calibrate(network, folders(halves)), calibrate(network, folders(halves, 1, 3))
    assert not same_integers(even, odd)
    assert same_integers(odd, calibrate(network, folders(halves, 1, 3), threads=1))
    assert odd.image_hashes == even.image_hashes


def test_a_heavy_folder_draws_the_summary_to_itself(network, halves):
    def median(*weights):
        return calibrate(network, folders(halves, *weights)).summary.quantiles["brightness"][10]

    assert median(1, 20) < median(1, 1) < median(20, 1)


def test_folders_that_share_images_are_refused(network, halves):
    for second in (halves / "day", halves, halves / "night" / ".." / "day"):
        with pytest.raises(BadInput, match=r"holds images that `.*day` holds too, the first is") as caught:
            calibrate(network, (CalibrationFolder(halves / "day"), CalibrationFolder(second)))
        assert caught.value.hint == "name folders that share no image"


def test_a_copy_in_another_folder_is_left_out(network, halves, tmp_path):
    shutil.copytree(halves / "night", tmp_path / "night")
    shutil.copy(halves / "day" / "03.png", tmp_path / "night" / "z.png")
    told = calibrate(network, (CalibrationFolder(halves / "day"), CalibrationFolder(tmp_path / "night")))
    assert any("`1` duplicate calibration images were left out: `" in line and "z.png` shows" in line for line in told.warnings)
    assert [folder["image_count"] for folder in told.quantized.provenance[FOLDERS]] == [12, 8]
    assert same_integers(told, calibrate(network, (CalibrationFolder(halves / "day"), CalibrationFolder(halves / "night"))))


def test_a_broken_image_is_counted_over_all_folders(network, halves, tmp_path):
    shutil.copytree(halves / "night", tmp_path / "night")
    (tmp_path / "night" / "x.png").write_bytes(b"torn")
    both = (CalibrationFolder(halves / "day"), CalibrationFolder(tmp_path / "night", 2))
    with pytest.raises(BadInput, match="`1` of `21` images cannot be read"):
        calibrate(network, both)
    told = calibrate(network, both, skip_broken=True)
    assert told.quantized.provenance[FOLDERS][1] == {"name": "night", "image_count": 8, "weight": 2}


@pytest.mark.parametrize("weight", [0, -1, 101])
def test_weights_out_of_range(weight, network, halves):
    with pytest.raises(BadInput, match=f"the weight `{weight}` of `.*night` is outside 1 to 100"):
        calibrate(network, folders(halves, 1, weight))


def test_a_missing_second_folder(network, halves):
    with pytest.raises(BadInput, match=r"`.*noon` does not exist"):
        calibrate(network, (CalibrationFolder(halves / "day"), CalibrationFolder(halves / "noon")))


@pytest.mark.parametrize("key", [APPEARANCE, FOLDERS])
@pytest.mark.parametrize("value", [3, [1], {"image_count": 2}, [{"name": "x"}]])
def test_a_table_whose_images_are_told_wrong_is_refused(key, value, network, tiny, tmp_path):
    made = calibrate(network, tiny / "calib")
    provenance = {**made.quantized.provenance, key: value}
    write_table(dataclasses.replace(made, quantized=dataclasses.replace(made.quantized, provenance=provenance)), tmp_path / "t")
    with pytest.raises(BadInput, match=f"is damaged: `{key}`"):
        read_calibration(tmp_path / "t")


def test_a_table_without_a_summary_is_of_an_older_version(network, tiny, tmp_path):
    made = calibrate(network, tiny / "calib")
    provenance = {key: value for key, value in made.quantized.provenance.items() if key not in (APPEARANCE, FOLDERS)}
    write_table(dataclasses.replace(made, quantized=dataclasses.replace(made.quantized, provenance=provenance)), tmp_path / "t")
    back = read_calibration(tmp_path / "t")
    assert back.summary is None
    images = Evaluation(SimpleNamespace(statistics=np.zeros((100, 6))), {}, independent=True)
    assert shift_warnings(made, images) != ()
    assert shift_warnings(back, images) == ()
    assert "folders" not in back.facts()


# --- in the export job


@pytest.fixture
def export(job):
    return lambda **changes: run(job(**{"calib": None, "bench": False} | changes))


@pytest.fixture(scope="module")
def negatives(tiny, tmp_path_factory):
    """20 images of another kind: the calibration images without colour."""
    folder = tmp_path_factory.mktemp("grey")
    for file in (tiny / "calib").iterdir():
        Image.open(file).convert("L").save(folder / file.name)
    return folder


def test_images_of_another_kind_are_warned_of(export, tiny, negatives, tmp_path):
    report = export(calib=tiny / "calib", eval=negatives)
    (text,) = [text for text in report.warnings if "differ in kind" in text]
    assert "colourfulness" in text
    assert text.startswith("the calibration images differ in kind from the evaluation images (medians: ")
    assert "calibrate on images like those that the device will see" in text


def test_so_does_a_table(export, network, tiny, negatives, tmp_path):
    write_table(calibrate(network, tiny / "calib"), tmp_path / "net.table")
    assert any("differ in kind" in text for text in export(table=tmp_path / "net.table", eval=negatives).warnings)
    assert export(table=tmp_path / "net.table", eval=tiny / "eval").warnings == ()


def test_images_of_the_same_kind_are_not(export, tiny):
    assert not any("differ in kind" in text for text in export(calib=tiny / "calib").warnings)
    assert not any("differ in kind" in text for text in export(calib=tiny / "calib", eval=tiny / "eval").warnings)


def test_several_folders_serve_as_evaluation_images_too(export, halves):
    report = export(calib=folders(halves, 1, 2))
    assert report.evaluation["source"] == "day, night"
    assert report.evaluation["image_count"] == 20
    assert report.evaluation["note"].startswith("these are the calibration images")
    assert report.measurements[0].accuracy.count == 20
    assert report.calibration["folders"][1]["weight"] == 2


def test_the_vendors_know_no_weights(export, halves):
    with pytest.raises(BadInput, match="the recipe `vendor` takes one calibration folder, not `2`"):
        export(calib=folders(halves), recipe="vendor")
