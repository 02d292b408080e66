"""Validation: on which images, and what is found out."""

import dataclasses
import shutil
import threading

import numpy as np
import pytest

from squeeze_export import demo
from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.images.stream import spread_evenly, usable_cores
from squeeze_export.pipeline import RunOptions, export, open_network, validate_files
from squeeze_export.pipeline.evaluation import evaluation_images
from squeeze_export.pipeline.measuring import Comparing, compared, threads
from squeeze_export.pipeline.sessions import entries_of, opened
from squeeze_export.registry import TARGETS
from squeeze_export.results import NOT_RUN

FAST = RunOptions(rounds=2)


# --- which images


def test_the_users_evaluation_images_come_first(network, tiny):
    found = evaluation_images(network, tiny / "eval", tiny / "calib")
    assert found is not None
    assert found.independent
    assert found.facts == {
        "source": "eval",
        "image_count": 8,
        "labelled": False,
        "classes_from": "none: a folder without sub-folders",
    }


def test_without_them_the_calibration_images_serve_and_a_note_says_so(network, tiny):
    found = evaluation_images(network, None, tiny / "calib")
    assert found is not None
    assert not found.independent
    assert found.facts["note"] == "these are the calibration images: give --eval DIR for an independent check"
    assert found.facts["image_count"] == 20


def test_the_demo_network_brings_its_own(tiny):
    network = open_network()
    own = evaluation_images(network, None, None)
    assert own is not None
    assert (own.facts["note"], own.facts["image_count"]) == ("the demo network's own evaluation images", 240)
    users = evaluation_images(network, None, tiny / "calib")
    assert users is not None
    assert not users.independent


def test_no_images(network):
    assert evaluation_images(network, None, None) is None


# --- validate


def test_an_interrupt_waits_for_no_board():
    """It waits for what is running alone, and that ends with the board."""
    held, given = threading.Event(), []

    def interrupted():
        with threads() as pool:
            given.extend(pool.submit(held.wait) for _ in range(usable_cores() + 2))
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert [future.cancelled() for future in given] == [False] * usable_cores() + [True] * 2
        assert not given[0].done()
    finally:
        held.set()


def test_int8_agrees_with_the_reference_on_every_target(network, made, tiny):
    report = validate_files([made[target, "int8"].path for target in TARGETS], network, tiny / "eval")
    rows = [row.accuracy for row in report.measurements]
    assert [row.count for row in rows if row] == [8] * len(TARGETS)
    assert all(row and row.top1_agreement.value >= 0.75 and row.sqnr_db > 20 for row in rows)


def test_fp32_is_the_reference_but_for_rounding(network, made, tiny):
    report = validate_files([made[target, "fp32"].path for target in TARGETS], network, tiny / "eval")
    assert all(row.accuracy and row.accuracy.top1_agreement.value == 1 for row in report.measurements)


def test_a_broken_artifact_is_found_out(network, quantized, tiny, tmp_path):
    """The negative control: one wrong bias, and the figures say so."""
    first = quantized.convs[0]
    wrong = dataclasses.replace(first, bias=first.bias + 20_000)
    nodes = tuple(wrong if node is first else node for node in quantized.nodes)
    artifact, _ = export(dataclasses.replace(quantized, nodes=nodes), "onnx", INT8, tmp_path, name="broken")
    (row,) = validate_files([artifact.path], network, tiny / "eval").measurements
    assert row.accuracy is not None
    assert row.accuracy.sqnr_db < 10


def test_overlap_is_refused(network, made, tiny):
    evaluation = evaluation_images(network, tiny / "eval", None)
    assert evaluation is not None
    hashes = next(iter(evaluation.stream)).hashes
    with (
        opened(entries_of([made["onnx", "int8"]], RunOptions()), FAST) as outcomes,
        pytest.raises(BadInput, match=r"evaluation images are calibration images too: at least `1`, the first is .*03\.png"),
    ):
        compared(outcomes, Comparing(network, evaluation, hashes[3:4]), FAST)


def test_the_calibration_images_overlap_with_themselves(network, made, tiny):
    """Where they serve for want of others, that is said, not refused."""
    evaluation = evaluation_images(network, None, tiny / "calib")
    assert evaluation is not None
    hashes = [digest for batch in evaluation.stream for digest in batch.hashes]
    with opened(entries_of([made["onnx", "int8"]], RunOptions()), FAST) as outcomes:
        (found,), warnings, _ = compared(outcomes, Comparing(network, evaluation, hashes), FAST)
    assert found.accuracy.count == 20
    assert warnings == ()


def test_broken_images_are_counted_out(network, made, tiny, tmp_path):
    for file in (tiny / "eval").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "01.png").write_bytes(b"torn")
    with pytest.raises(BadInput, match="`1` of `8` images cannot be read"):
        validate_files([made["onnx", "int8"].path], network, tmp_path)
    report = validate_files([made["onnx", "int8"].path], network, tmp_path, skip_broken=True)
    assert report.evaluation["image_count"] == 7
    assert report.warnings == ("`1` unreadable evaluation images were left out, the first is `01.png`",)


def test_labels_near_chance_are_warned_of(tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(reversed(demo.labels())))
    network = open_network(labels=tmp_path / "labels.txt")
    artifact, _ = export(network.graph, "onnx", FP32, tmp_path, name="demo")
    (warning,) = validate_files([artifact.path], network).warnings
    assert "the fp32 reference itself scores only " in warning


def test_probabilities_are_compared_as_probabilities(network, quantized, tiny, tmp_path):
    soft, _ = export(quantized, "onnx", INT8, tmp_path, name="soft", options=EmitOptions(softmax=True))
    plain, _ = export(quantized, "onnx", INT8, tmp_path, name="plain")
    (soft_row,) = validate_files([soft.path], network, tiny / "eval").measurements
    (plain_row,) = validate_files([plain.path], network, tiny / "eval").measurements
    assert soft_row.accuracy is not None
    assert plain_row.accuracy is not None
    assert soft_row.accuracy.kl == pytest.approx(plain_row.accuracy.kl, rel=1e-2)
    scored, _ = export(quantized, "onnx", INT8, tmp_path, name="scored", options=EmitOptions(sigmoid=True))
    (scored_row,) = validate_files([scored.path], network, tiny / "eval").measurements
    assert scored_row.accuracy is not None
    assert scored_row.accuracy.sqnr_db > 40
    assert scored_row.accuracy.top1_agreement == plain_row.accuracy.top1_agreement
    for pair in ([soft.path, plain.path], [soft.path, scored.path]):
        with pytest.raises(BadInput, match="files with and without --softmax or --sigmoid cannot be compared in one run"):
            validate_files(pair, network, tiny / "eval")


def test_files_of_another_checkpoint(made, tiny):
    other = open_network(tiny / "other.safetensors")
    with pytest.raises(BadInput, match=r"`net.int8.onnx` was not made from `other.safetensors`"):
        validate_files([made["onnx", "int8"].path], other, tiny / "eval")


# --- sessions that emulate


@pytest.mark.parametrize(("total", "limit"), [(472, 100), (8, 3), (8, 8), (8, 100), (101, 100)])
def test_an_emulated_session_is_given_images_from_the_whole_set(total, limit):
    chosen = np.concatenate([spread_evenly(start, min(16, total - start), total, limit) for start in range(0, total, 16)])
    assert len(chosen) == total
    assert chosen.sum() == min(limit, total)
    assert chosen[0]  # whatever is left out of the set as broken, some image is there
    gaps = np.diff(np.flatnonzero(chosen))
    assert gaps.max() - gaps.min() <= 1


class Emulator:
    """The session of a file, said to emulate; remembers how many images it saw."""

    evidence = "emulated"
    gives_logits = True

    def __init__(self, session):
        self.session, self.count = session, 0

    def infer(self, batch):
        self.count += len(batch)
        return self.session.infer(batch)

    def close(self):
        self.session.close()


def test_an_emulated_session_is_given_fewer_images(network, made, tiny):
    evaluation = evaluation_images(network, tiny / "eval", None)
    assert evaluation is not None
    entries = entries_of([made["onnx", "int8"], made["tflite", "int8"]], RunOptions())
    with opened(entries, FAST) as (first, second):
        emulator = Emulator(first.session)
        found, _, images = compared(
            [dataclasses.replace(first, session=emulator), second], Comparing(network, evaluation), RunOptions(emulated_images=3)
        )
    assert emulator.count == 3
    assert [outcome.accuracy.count for outcome in found] == [3, 8]
    few, all_ = (outcome.answers.top1.numbers() for outcome in found)
    assert (few != NOT_RUN).sum() == 3
    assert len(few) == len(all_) == images.hashes.count == 8
    assert (all_ != NOT_RUN).all()


def test_every_images_answers_are_kept(network, made, tiny, tmp_path):
    """What the figures are made of can be counted again from the answers alone."""
    files = sorted((tiny / "eval").rglob("*.png"))
    for index, file in enumerate(files):
        shutil.copy(file, tmp_path)
        with (tmp_path / "val.txt").open("a") as listed:
            listed.write(f"{file.name} {index % 5}\n")
    report = validate_files([made["onnx", "int8"].path], network, tmp_path / "val.txt")
    (row,), images = report.measurements, report.images
    labels, best = images.labels.numbers(), row.answers.top1.numbers()
    reference = images.reference.top1.numbers()
    assert images.names.texts() == tuple(file.name for file in files)
    assert len(set(images.hashes.numbers().tolist())) == len(files)
    assert row.accuracy.top1 == np.mean(best == labels)
    assert row.accuracy.top5 == np.mean(row.answers.label_rank.numbers() < 5)
    assert row.accuracy.reference_top1 == np.mean(reference == labels) == np.mean(images.reference.label_rank.numbers() == 0)
    assert row.accuracy.top1_agreement.value == np.mean(reference == best)
