"""Regressions that are planted in the files of every format: the gate fails each, with its words and exit code 5."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from squeeze_export.gate.results import SCHEMA as RESULT
from squeeze_export.graph.nodes import QuantizedConv
from squeeze_export.graph.quantized import INT8
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.pipeline import PreprocessChoice, calibrate, export, open_network, validate_files
from squeeze_export.quant.mixed import keep_float
from squeeze_export.registry import TARGETS
from squeeze_export.results import SCHEMA
from tests.conftest import draw_images

COUNT = 30
BOUNDS = ("--min-sqnr", "12dB", "--max-size", "60KB", "--max-fallbacks", 0)


@pytest.fixture(scope="module")
def network(tiny):
    return open_network(tiny / "tiny.safetensors", labels=tiny / "labels.txt")


@pytest.fixture(scope="module")
def images(network, tmp_path_factory):
    """A folder for each class, with the images that the reference puts into it."""
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder / "all", COUNT, seed=3)
    for path in sorted((folder / "all").iterdir()):
        pixels = load_pixels(path, network.graph.preprocess)
        label = network.graph.labels[int(FloatRunner(network.graph)(pixels[None]).argmax())]
        (folder / "labelled" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "labelled" / label)
    return folder


@pytest.fixture(scope="module")
def quantized(network, tiny):
    return calibrate(network, tiny / "calib").quantized


def report_of(quantized, network, images, out):
    """The report of the table's file in every format."""
    out.mkdir(exist_ok=True)
    files = [export(quantized, target, INT8, out, name="net")[0].path for target in TARGETS]
    report = validate_files(files, network, images)
    SCHEMA.write(report, out / "report.json")
    return out / "report.json"


@pytest.fixture(scope="module")
def sound(quantized, network, images, tmp_path_factory):
    """The report that the baseline is made of."""
    return report_of(quantized, network, images / "labelled", tmp_path_factory.mktemp("sound"))


@pytest.fixture
def failed(squeeze, sound, tmp_path):
    """What the gate says of a report: target -> its checks that failed, and those of the whole report under an empty name."""
    baseline = tmp_path / "baseline.json"
    assert squeeze("gate", sound, "--update", "--baseline", baseline).code == 0

    def judge(report, *bounds, code=5):
        result = squeeze("gate", report, "--baseline", baseline, *bounds, "--out", tmp_path)
        assert result.code == code, result.out
        found = {}
        for check in RESULT.read(tmp_path / "gate.json").checks:
            if check.state == "failed":
                target = Path(check.row.split(",")[0]).suffix[1:].replace("mlpackage", "coreml").replace("aimodel", "coreai")
                found.setdefault(target, {})[check.name] = check.message
        return found

    return judge


ALL = set(TARGETS)


def test_what_did_not_change_passes(failed, quantized, network, images, tmp_path):
    report = report_of(quantized, network, images / "labelled", tmp_path / "again")
    assert failed(report, *BOUNDS, code=0) == {}


def test_a_scale_that_is_off_by_two(failed, quantized, network, images, tmp_path):
    conv = next(node for node in quantized.nodes if isinstance(node, QuantizedConv) and node.name.startswith("fire3"))
    wrong = tuple(
        dataclasses.replace(node, weight_scale=2 * node.weight_scale) if node is conv else node for node in quantized.nodes
    )
    report = report_of(dataclasses.replace(quantized, nodes=wrong), network, images / "labelled", tmp_path / "wrong")
    found = failed(report, *BOUNDS)
    assert set(found) == ALL
    for checks in found.values():
        assert {"integers", "min-sqnr"} <= set(checks)
        assert checks["integers"].startswith("another table than in the baseline: scales,")


def test_a_float_layer(failed, quantized, network, images, tmp_path):
    layer = quantized.convs[1].name
    report = report_of(keep_float(network.graph, quantized, [layer]), network, images / "labelled", tmp_path / "float")
    found = failed(report)
    assert set(found) == ALL
    for checks in found.values():
        assert checks["float-layers"].startswith(f"computes {layer}")
        assert checks["float-layers"].endswith(" in float, which the baseline does in integers")
        assert {"integers", "operators"} <= set(checks)


def test_a_lost_label_file(failed, quantized, network, images, tmp_path):
    report = report_of(quantized, network, images / "all", tmp_path / "lost")
    found = failed(report, "--max-top1-drop", 20)
    assert set(found) == {"", *ALL}
    assert found[""]["labels"] == f"{COUNT} images have lost their label: was the label file lost, or the folders' classes?"
    for target in ALL:
        assert found[target]["max-top1-drop"].endswith("was the label file or the folders' classes lost?")


def test_bgr_for_rgb(failed, network, images, tiny, tmp_path):
    """Of files and reference alike: they agree with each other, and not with the baseline."""
    wrong = open_network(tiny / "tiny.safetensors", labels=tiny / "labels.txt", preprocess=PreprocessChoice(channel_order="bgr"))
    table = calibrate(wrong, tiny / "calib").quantized
    found = failed(report_of(table, wrong, images / "labelled", tmp_path / "bgr"), "--min-sqnr", "12dB")
    assert set(found) == {"", *ALL}
    assert "channel order RGB or BGR" in found[""]["reference"]
    assert all("integers" in found[target] for target in ALL)


def test_bgr_in_the_files_alone(failed, quantized, network, images, tmp_path):
    first = quantized.convs[0]
    swapped = dataclasses.replace(first, weight=np.ascontiguousarray(first.weight[:, ::-1]))
    wrong = tuple(swapped if node is first else node for node in quantized.nodes)
    report = report_of(dataclasses.replace(quantized, nodes=wrong), network, images / "labelled", tmp_path / "bgr")
    found = failed(report, "--min-agreement", "90%", "--min-sqnr", "12dB")
    assert set(found) == ALL
    assert all({"integers", "min-sqnr"} <= set(checks) for checks in found.values())
