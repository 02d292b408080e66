"""The committed baseline of `make demo` is that of the files which are exported today."""

from pathlib import Path

import pytest

from squeeze_export import demo
from squeeze_export.gate.baseline import read_baseline
from squeeze_export.gate.bounds import Bounds
from squeeze_export.gate.regressions import regression_checks
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.pipeline import Job, run
from squeeze_export.registry import TARGETS

BASELINE = Path(__file__).parents[2] / "tools" / "demo" / "baseline.json"
UPDATE = "make demo; squeeze-export gate demo-out/report.json --baseline tools/demo/baseline.json --update"


@pytest.fixture(scope="module")
def baseline():
    return read_baseline(BASELINE)


def test_it_is_of_the_demo_network_and_its_images(baseline):
    assert baseline.checkpoint_sha256 == read_checkpoint(demo.weights_path()).sha256
    assert [file.target for file in baseline.files] == list(TARGETS)
    assert baseline.images is not None
    assert (baseline.images.hashes.count, baseline.images.labels.numbers().min()) == (240, 0)
    assert baseline.images.names is None


def test_todays_files_are_its_files(baseline, tmp_path):
    """Nothing is run here, so images and answers are missing, which the gate says; all else must be as it was."""
    report = run(Job(targets=tuple(TARGETS), scheme="int8", out=tmp_path, validate=False, bench=False))
    checks = regression_checks(report, baseline, Bounds())
    wrong = [f"{check.row} {check.name}: {check.message}" for check in checks if check.state == "failed"]
    assert [text for text in wrong if " images: " not in text and " answers: " not in text] == [], UPDATE
    assert len(wrong) == 1 + len(TARGETS)
    assert {check.name for check in checks if check.row} == {"integers", "bytes", "size", "operators", "answers"}
