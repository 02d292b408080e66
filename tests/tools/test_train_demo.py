"""The script that made the demo network still makes one."""

import numpy as np
import pytest

from squeeze_export import demo
from tools.demo import train
from tools.demo.drawn import CLASS_NAMES, draw_batch

TEST_SEED = 6


def test_the_command_makes_everything_anew(tmp_path, monkeypatch):
    """The whole command on a plan too small to learn anything; twice, so that files of an earlier run are replaced."""
    pytest.importorskip("torch")
    monkeypatch.setattr(train, "draw_many", lambda seed, count, processes, progress: draw_batch(seed, count))
    tiny = train.Plan(48, 1, 16, 0.01, 24, 1, 1, 1, 1)
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "stale.jpg").write_bytes(b"")
    measured = train.remake(tmp_path, tiny)
    assert demo.measured(tmp_path) == measured
    assert measured["fp32_top1_of_fp16_weights"]["count"] == 24
    assert demo.labels(tmp_path) == CLASS_NAMES
    assert [
        len((folder / "manifest.csv").read_text(encoding="utf-8").splitlines()) - 1
        for folder in (demo.calibration_folder(tmp_path), demo.evaluation_folder(tmp_path))
    ] == [24, 24]
    assert {path.name for path in tmp_path.iterdir()} == {
        "calib",
        "eval",
        "labels.txt",
        "measured.json",
        "squeezenet1_1_demo.safetensors",
    }
    assert not (tmp_path / "calib" / "stale.jpg").exists()


def test_processes_draw_the_same_images(monkeypatch):
    monkeypatch.setattr(train, "CHUNK_COUNT", 8)  # three chunks, the last one short
    drawn, labels = train.draw_many(TEST_SEED, 20, 2)
    expected, expected_labels = draw_batch(TEST_SEED, 20)
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(labels, expected_labels)
