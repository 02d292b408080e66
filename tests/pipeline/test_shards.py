"""A validation in shards: the figures do not tell where they were cut, and what grows with the images is small."""

import dataclasses
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from squeeze_export.errors import BadInput, Refused
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.file_list import FileList
from squeeze_export.images.folders import open_images
from squeeze_export.images.stream import ImageStream
from squeeze_export.measure.accuracy import ANSWER, COMPARED, answers_each, compared_each, summed
from squeeze_export.pipeline import RunOptions, Scale
from squeeze_export.pipeline.evaluation import evaluation_images
from squeeze_export.pipeline.measuring import Comparing, compared
from squeeze_export.pipeline.sessions import entries_of, opened
from squeeze_export.pipeline.shards import IMAGE, SOUND, ShardRunner
from squeeze_export.results import NOT_RUN


@pytest.fixture(scope="module")
def many(tiny, tmp_path_factory):
    """28 labelled images, of which 06.png is a copy of 01.png under the same class, and 25.png one of 02.png under another."""
    folder = tmp_path_factory.mktemp("many")
    files = [*sorted((tiny / "eval").glob("*.png")), *sorted((tiny / "calib").glob("*.png"))]
    for index, file in enumerate(files):
        shutil.copy(file, folder / f"{index:02}.png")
    shutil.copy(folder / "01.png", folder / "06.png")
    shutil.copy(folder / "02.png", folder / "25.png")
    lines = [f"{index:02}.png {0 if index == 6 else index // 6}" for index in range(28)]
    (folder / "val.txt").write_text("\n".join(lines))
    return folder / "val.txt"


def found(network, made, images, size, *, skip_broken=False):
    """Outcomes, warnings and images of a validation in shards of a size."""
    evaluation = evaluation_images(network, images, None, skip_broken=skip_broken)
    entries = entries_of([made["onnx", "int8"], made["tflite", "fp32"]], RunOptions())
    with opened(entries, RunOptions()) as outcomes:
        done = compared(outcomes, Comparing(network, evaluation, scale=Scale(shard_images=size)), RunOptions())
    return done, evaluation


def test_the_cuts_do_not_show_in_any_digit(network, made, many):
    (whole, warnings, images), evaluation = found(network, made, many, 1000)
    assert evaluation.facts["image_count"] == 26
    assert any("`2` duplicate evaluation images were left out: `06.png` shows the same as `01.png`" in text for text in warnings)
    assert any("`1` evaluation images stand under two classes, the first are `02.png` and `25.png`" in text for text in warnings)
    for size in (7, 1):
        (parts, told, same), again = found(network, made, many, size)
        assert [outcome.accuracy for outcome in parts] == [outcome.accuracy for outcome in whole]
        assert [outcome.answers for outcome in parts] == [outcome.answers for outcome in whole]
        assert (told, same, again.facts) == (warnings, images, evaluation.facts)
        np.testing.assert_array_equal(again.stream.statistics, evaluation.stream.statistics)
    changed = dataclasses.replace(whole[0].accuracy, sqnr_db=np.nextafter(whole[0].accuracy.sqnr_db, 0))
    assert changed != whole[0].accuracy  # one digit would


def test_broken_images_of_all_shards_are_counted_together(network, made, many, tmp_path):
    for file in many.parent.iterdir():
        shutil.copy(file, tmp_path)
    for name in ("03.png", "04.png", "27.png"):
        (tmp_path / name).write_bytes(b"torn")
    (_, warnings, images), evaluation = found(network, made, tmp_path / "val.txt", 2, skip_broken=True)
    assert images.hashes.count == evaluation.facts["image_count"] == 23
    assert "`3` unreadable evaluation images were left out, the first is `03.png`" in warnings
    with pytest.raises(BadInput, match=r"of `28` images cannot be read, the first is `03\.png`"):
        found(network, made, tmp_path / "val.txt", 2)
    for file in tmp_path.glob("*.png"):
        file.write_bytes(b"torn")
    with pytest.raises(BadInput, match="`28` of `28` images cannot be read"):
        found(network, made, tmp_path / "val.txt", 2, skip_broken=True)


def test_a_network_that_says_the_same_of_every_shard(network, made, many):
    """One image a shard: only between shards does the reference's output vary."""
    (outcomes, _, _), _ = found(network, made, many, 1)
    assert all(outcome.accuracy.reference_varies for outcome in outcomes)


def test_what_grows_with_the_images_is_small(tiny):
    assert (IMAGE.itemsize + ANSWER.itemsize, COMPARED.itemsize) == (69, 56)  # docs/scale.md tells them
    files = FileList(open_images(tiny / "eval", class_count=5).files)
    assert len(files) == 8
    assert files == sorted((tiny / "eval").iterdir()) == list(files[:3]) + list(files[3:])
    assert files[-1].name == "07.png"
    with pytest.raises(IndexError):
        files[8]
    assert files != files[:7]


# --- records of images


def drawn(count, classes):
    draw = np.random.default_rng([count, classes])
    return draw.normal(size=(count, classes)).astype(np.float32), draw.normal(size=(count, classes)).astype(np.float32)


@pytest.mark.parametrize("ending", ["logits", "softmax", "sigmoid"])
@pytest.mark.parametrize("classes", [1, 3, 10, 1000])
def test_a_record_does_not_depend_on_the_images_beside_it(classes, ending):
    reference, output = drawn(33, classes)
    output = output if ending == "logits" else np.abs(output) / 10
    labels = np.arange(33) % (classes + 1) - 1
    whole = compared_each(reference, output, labels, ending=ending)
    for size in (1, 2, 5):
        cut = [slice(start, start + size) for start in range(0, 33, size)]
        parts = [compared_each(reference[at], output[at], labels[at], ending=ending) for at in cut]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_sums_do_not_depend_on_the_order():
    reference, output = drawn(200, 10)
    output[::2] *= 1e4  # so that a plain sum would round
    labels = np.arange(200) % 10
    answers, each = answers_each(reference, labels), compared_each(reference, output, labels)
    order = np.random.default_rng(0).permutation(200)
    assert summed(answers[order], each[order], 10) == summed(answers, each, 10)
    assert sum(each["noise"][order].tolist()) != sum(each["noise"].tolist())


def test_an_answer_by_hand():
    logits = np.array([[1, 4, 4, 2], [3, 0, 1, 2]], np.float32)
    found = answers_each(logits, np.array([2, -1]))
    assert found["top1"].tolist() == [1, 0]
    assert found["label_rank"].tolist() == [1, NOT_RUN]  # class 1 is as high, and stands before it
    assert found["margin"].tolist() == [0, 1]
    assert answers_each(logits, np.array([3, 1]))["label_rank"].tolist() == [2, 3]


@pytest.mark.parametrize("classes", [1, 3, 5, 6, 40])
def test_the_best_five_are_those_of_a_stable_sort(classes):
    """int8 logits do tie: then the lowest index counts as the better."""
    draw = np.random.default_rng(classes)
    reference, output = (draw.integers(-2, 3, (500, classes)).astype(np.float32) for _ in range(2))
    best = [np.argsort(-logits, axis=1, kind="stable")[:, :5] for logits in (reference, output)]
    shared = [len({*one} & {*other}) for one, other in zip(*(each.tolist() for each in best), strict=True)]
    assert compared_each(reference, output, np.full(500, -1))["top5_shared"].tolist() == shared


# --- batches on their way


class Slow:
    """A session that takes a while, and notices a second call meanwhile."""

    evidence, gives_logits = "measured", True

    def __init__(self, network, fails_at=None):
        self.runner, self.fails_at = FloatRunner(network.graph), fails_at
        self.sizes, self.busy, self.met = [], False, False

    def infer(self, batch):
        self.met, self.busy = self.met or self.busy, True
        time.sleep(0.05)
        self.busy = False
        self.sizes.append(len(batch))
        if len(self.sizes) == self.fails_at:
            raise Refused("enough")
        return self.runner(batch)


def run_slowly(network, many, session):
    """Runs one shard in batches of four on three threads; gives it, and what was told of failures."""
    stream = ImageStream(open_images(many, class_count=network.class_count), network.graph.preprocess, batch=4)
    told = []
    with ThreadPoolExecutor(3) as pool:
        runner = ShardRunner(
            network.graph, {"slow": (session, "logits")}, pool, 28, 28, failed=lambda *failure: told.append(failure)
        )
        return runner.run(0, stream), told


def test_a_session_gets_one_batch_at_a_time(network, many):
    session = Slow(network)
    shard, told = run_slowly(network, many, session)
    assert (session.met, told, sum(session.sizes)) == (False, [], 26)
    ran = shard.images["state"] == SOUND
    assert (shard.answers["slow"]["top1"][ran] == shard.reference["top1"][ran]).all()


def test_a_session_that_fails_is_asked_no_more_and_the_reference_goes_on(network, many):
    session = Slow(network, fails_at=2)
    shard, told = run_slowly(network, many, session)
    assert [(key, str(err)) for key, err in told] == [("slow", "enough")]
    assert len(session.sizes) <= 3  # one batch may have been on its way
    assert shard.answers == {}
    assert (shard.reference["top1"][shard.images["state"] == SOUND] != NOT_RUN).all()
