"""The drawn data set: determinism, ranges, and that every class is really drawn."""

import numpy as np
import pytest

from squeeze_export.errors import BadInput
from tools.demo.drawn import CLASS_NAMES, draw, draw_batch, draw_indices
from tools.demo.pen import TEMPLATE_PX
from tools.demo.symbols import VARIANT_COUNT, template


def test_class_names_are_24_and_in_alphabetical_order():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 24
    assert list(CLASS_NAMES) == sorted(CLASS_NAMES)  # so that a folder tree reads back to the same indices


def test_same_seed_gives_same_bytes():
    first, second = draw_batch(11, 24), draw_batch(11, 24)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[0].dtype == np.uint8
    assert first[0].shape == (24, 96, 96, 3)
    assert first[1].dtype == np.int64


def test_an_image_depends_on_neither_order_nor_count():
    images, labels = draw_batch(12, 30)
    late, late_labels = draw_batch(12, 3, start=27)
    np.testing.assert_array_equal(images[27:], late)
    np.testing.assert_array_equal(labels[27:], late_labels)
    shuffled, _ = draw_indices(12, [29, 0])
    np.testing.assert_array_equal(shuffled, images[[29, 0]])


def test_another_seed_gives_other_images():
    assert not np.array_equal(draw_batch(13, 1)[0], draw_batch(14, 1)[0])


def test_classes_take_turns():
    _, labels = draw_indices(1, range(48))
    np.testing.assert_array_equal(np.bincount(labels), np.full(24, 2))


def test_an_empty_batch_is_empty():
    images, labels = draw_batch(1, 0)
    assert images.shape == (0, 96, 96, 3)
    assert labels.shape == (0,)


@pytest.mark.parametrize("class_index", range(24), ids=CLASS_NAMES)
def test_every_class_shows_something_at_any_hardness(class_index):
    for hardness in (0.0, 1.0, 2.0):
        image = draw(class_index, np.random.default_rng(5), 64, hardness=hardness)
        assert image.shape == (64, 64, 3)
        assert image.std() > 2


def test_templates_of_different_classes_differ():
    shapes = {name: template(name, 0).tobytes() for name in CLASS_NAMES}
    assert len(set(shapes.values())) == 24
    for name in CLASS_NAMES:
        for variant in range(VARIANT_COUNT):
            assert template(name, variant).getbbox() is not None
    assert template("stop", 0, 1).width == TEMPLATE_PX // 2


def test_left_and_right_are_mirror_images():
    left, right = np.asarray(template("turn_left", 0)), np.asarray(template("turn_right", 0))
    assert np.abs(left[:, ::-1].astype(int) - right).mean() < 2
    assert np.abs(left.astype(int) - right).mean() > 5


@pytest.mark.parametrize(("class_index", "size_px", "hardness"), [(24, 96, 1.0), (-1, 96, 1.0), (0, 31, 1.0), (0, 96, -0.1)])
def test_what_cannot_be_drawn_is_refused(class_index, size_px, hardness):
    with pytest.raises(BadInput, match="`"):
        draw(class_index, np.random.default_rng(0), size_px, hardness=hardness)
