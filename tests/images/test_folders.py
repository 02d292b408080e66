"""Finding images: folders, ImageFolder, manifests; and streaming them."""

from __future__ import annotations

import csv
import hashlib
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_export.core import TORCHVISION, Preprocess
from squeeze_export.errors import BadInput
from squeeze_export.images import manifest as manifest_module
from squeeze_export.images import stream as stream_module
from squeeze_export.images.folders import open_calibration, open_images
from squeeze_export.images.label_files import read_labels
from squeeze_export.images.labels import ClassMatch, Labels
from squeeze_export.images.preprocess import READS_AVIF, load_pixels
from squeeze_export.images.stream import ImageStream, usable_cores

SMALL = Preprocess(8, 6, "bilinear", "rgb", (0, 0, 0), (1, 1, 1))
AVIF = ", AVIF" if READS_AVIF else ""
NAMES = Labels(("dog", "cat", "ant"))


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)
    return path


def draw_many(folder: Path, count: int) -> list[Path]:
    return [draw(folder / f"{i:03}.png", i) for i in range(count)]


def names(image_set) -> list[str]:
    return [file.relative_to(image_set.root).as_posix() for file in image_set.files]


# --- folders


def test_a_plain_folder_is_unlabelled(tmp_path: Path):
    for name in ("b.PNG", "a.jpg", "c.jpeg", ".hidden.jpg", "d.gif", "e.tif", "f.TIFF", "g.bmp", "h.webp", "i.JFIF"):
        draw(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    found = open_images(tmp_path, class_count=3)
    assert names(found) == ["a.jpg", "b.PNG", "c.jpeg", "d.gif", "e.tif", "f.TIFF", "g.bmp", "h.webp", "i.JFIF"]
    assert (found.labels, found.root) == (None, tmp_path)
    assert found.class_source.startswith("none")


def test_the_parts_of_a_set_are_no_classes(tmp_path: Path):
    """Two of them would be two classes in alphabetical order."""
    for name in ("train/dog/1.png", "train/cat/2.png", "test/dog/3.png", "test/cat/4.png"):
        draw(tmp_path / name)
    for labels in (None, NAMES):
        with pytest.raises(BadInput, match="holds the parts of a set, not its classes: `test`, `train`") as caught:
            open_images(tmp_path, class_count=2, labels=labels)
        assert caught.value.hint == f"name one of them: `{tmp_path / 'train'}`"
    assert names(open_images(tmp_path / "test", class_count=2)) == ["cat/4.png", "dog/3.png"]


def test_classes_may_be_called_like_parts_of_a_set(tmp_path: Path):
    for name in ("train/1.png", "test/2.png"):
        draw(tmp_path / name)
    assert open_images(tmp_path, class_count=2).labels == (0, 1)


def test_folders_are_matched_by_name(tmp_path: Path):
    for name in ("dog/2.png", "dog/deep/er/1.png", "ant/9.png", ".trash/x.png", "ant/.thumbs/x.png"):
        draw(tmp_path / name)
    (tmp_path / "readme").mkdir()  # holds no image, so it needs no class
    found = open_images(tmp_path, class_count=3, labels=NAMES)
    assert names(found) == ["ant/9.png", "dog/2.png", "dog/deep/er/1.png"]
    assert found.labels == (2, 0, 0)
    assert found.class_source == "folder names, matched to the labels"
    assert found.matches == (ClassMatch("ant", 2, exact=True), ClassMatch("dog", 0, exact=True))


def test_wnid_folders_and_folders_that_are_spelt_otherwise(tmp_path: Path):
    for name in ("n02084071/1.png", "House Cat/2.png", "ANT/3.png"):
        draw(tmp_path / name)
    labels = Labels(("dog, domestic dog", "cat, house cat", "ant"), ("n02084071", "n02121620", "n02219486"))
    found = open_images(tmp_path, class_count=3, labels=labels)
    assert dict(zip(names(found), found.labels, strict=True)) == {"n02084071/1.png": 0, "House Cat/2.png": 1, "ANT/3.png": 2}
    assert [match.exact for match in found.matches] == [False, False, True]  # `ANT`, `House Cat`, the wnid


def test_the_alphabetical_rule_needs_a_folder_per_class(tmp_path: Path):
    draw(tmp_path / "dog" / "1.png")
    draw(tmp_path / "ant" / "1.png")
    (tmp_path / "cat").mkdir()  # empty, but it has its number, as its place in the alphabet says
    found = open_images(tmp_path, class_count=3)
    assert found.labels == (0, 2)
    assert "alphabetical" in found.class_source
    assert found.matches == tuple(ClassMatch(name, index, exact=False) for index, name in enumerate(("ant", "cat", "dog")))
    with pytest.raises(BadInput, match="`3` folders cannot be matched to `1000` classes"):
        open_images(tmp_path, class_count=1000)


def test_folders_outside_the_labels_are_refused(tmp_path: Path):
    draw(tmp_path / "dog" / "1.png")
    draw(tmp_path / "eel" / "1.png")
    with pytest.raises(BadInput, match="`1` of `2` folders are not among the labels, the first is `eel`"):
        open_images(tmp_path, class_count=3, labels=NAMES)


def test_a_mixed_folder_is_refused_for_evaluation_only(tmp_path: Path):
    draw(tmp_path / "1.png")
    draw(tmp_path / "dog" / "2.png")
    with pytest.raises(BadInput, match="both beside and inside sub-folders such as `dog`"):
        open_images(tmp_path, class_count=3, labels=NAMES)
    found = open_calibration(tmp_path)
    assert names(found) == ["1.png", "dog/2.png"]
    assert found.labels is None


def test_nothing_to_find(tmp_path: Path):
    for opened in (lambda p: open_images(p, class_count=3), open_calibration):
        with pytest.raises(BadInput, match="holds no images") as caught:
            opened(tmp_path)
        assert ".webp" in str(caught.value.hint)
        with pytest.raises(BadInput, match="does not exist"):
            opened(tmp_path / "nowhere")
        with pytest.raises(BadInput, match=r"neither a folder nor a `[.]csv` manifest nor a `[.]txt` list"):
            opened(draw(tmp_path / "else" / "x.png"))
        (tmp_path / "else" / "x.png").unlink()
        (tmp_path / "else").rmdir()


@pytest.mark.parametrize("opened", [open_calibration, lambda path: open_images(path, class_count=1, labels=Labels(("dog",)))])
def test_images_of_formats_that_are_not_read_are_counted_and_named(tmp_path: Path, opened):
    draw(tmp_path / "dog" / "a.png")
    for name in ("dog/IMG_2.HEIC", "dog/IMG_1.heic", "dog/x.DNG", "heic only/IMG_3.heif", ".hidden.heic", "dog/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"anything")
    found = opened(tmp_path)
    assert names(found) == ["dog/a.png"]
    line = "`3` HEIC files, the first is `dog/IMG_1.heic`, `1` raw file, the first is `dog/x.DNG`; convert them to JPEG or PNG"
    assert found.not_read == (line,)
    assert ImageStream(found, SMALL).warnings("training images") == (f"training images not read: {line}",)
    (tmp_path / "dog" / "a.png").unlink()
    with pytest.raises(BadInput, match="no images that can be read: `3` HEIC files, the first is `dog/IMG_1") as caught:
        opened(tmp_path)
    assert "magick" in str(caught.value.hint)


def test_nothing_left_out_nothing_said(tmp_path: Path):
    draw_many(tmp_path, 3)
    stream = ImageStream(open_calibration(tmp_path), SMALL)
    stream.load()
    assert (stream.warnings("images"), stream.left_out_count, stream.duplicates) == ((), 0, ())


@pytest.mark.parametrize("name", ["IMG_1.jpg", "IMG_1.png"])
def test_heic_under_another_ending_is_named(tmp_path: Path, name):
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(BadInput, match=rf"`1` of `1` images cannot be read, the first is `{name}` \(HEIC inside, not one of JPEG"):
        list(ImageStream(open_calibration(tmp_path), SMALL))


def test_links(tmp_path: Path):
    draw(tmp_path / "store" / "one.png", 1)
    draw(tmp_path / "store" / "cats" / "two.png", 2)
    root = tmp_path / "set"
    (root / "dog").mkdir(parents=True)
    (root / "dog" / "a.png").symlink_to(tmp_path / "store" / "one.png")
    (root / "dog" / "loop").symlink_to(root)
    (root / "dog" / "self").symlink_to(root / "dog")
    (root / "dog" / "folder.png").symlink_to(tmp_path / "store")
    (root / "cat").symlink_to(tmp_path / "store" / "cats")
    found = open_images(root, class_count=3, labels=NAMES)
    labels = dict(zip(names(found), found.labels, strict=True))
    assert labels["dog/a.png"] == 0
    assert labels["cat/two.png"] == 1
    assert not any("loop" in name or "self" in name for name in labels)


def test_a_dead_link_is_a_broken_image(tmp_path: Path):
    draw(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "c.png")  # would block whoever opened it
    found = open_calibration(tmp_path)
    assert names(found) == ["a.png", "b.png"]
    with pytest.raises(BadInput, match=r"`1` of `2` images cannot be read, the first is `b.png` \(No such file"):
        list(ImageStream(found, SMALL, batch=2))


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BadInput, match="cannot be read \\(Permission denied\\)"):
        open_calibration(tmp_path)


# --- manifests


def manifest(folder: Path, text: str, *images: str) -> Path:
    for name in images:
        draw(folder / name)
    path = folder / "list.csv"
    path.write_bytes(text.encode())
    return path


def test_manifest_with_class_index(tmp_path: Path):
    path = manifest(tmp_path, "author,file,class_index\nx,b/2.png,2\n\ny,a.png,\n", "a.png", "b/2.png", "unlisted.png")
    found = open_images(path, class_count=3)
    assert (names(found), found.labels, found.root) == (["a.png", "b/2.png"], (-1, 2), tmp_path)
    assert found.class_source == "manifest column class_index"


def test_manifest_with_label(tmp_path: Path):
    path = manifest(tmp_path, '\ufefffile,label\r\n"a, b.png", cat\r\nc.png,dog\r\n', "a, b.png", "c.png")
    found = open_images(path, class_count=3, labels=NAMES)
    assert (names(found), found.labels) == (["a, b.png", "c.png"], (1, 0))
    assert "label" in found.class_source


def test_class_index_beats_label(tmp_path: Path):
    path = manifest(tmp_path, "file,label,class_index\na.png,whatever,2\n", "a.png")
    assert open_images(path, class_count=3, labels=NAMES).labels == (2,)
    assert open_images(path, class_count=3).labels == (2,)


def test_manifest_without_a_known_class_is_unlabelled(tmp_path: Path):
    assert open_images(manifest(tmp_path, "file,class_index\na.png,\n", "a.png"), class_count=3).labels is None


def test_labels_in_a_manifest_may_be_spelt_otherwise(tmp_path: Path):
    path = manifest(tmp_path, "file,label\na.png,Dog\nb.png,Dog\nc.png,ant\n", "a.png", "b.png", "c.png")
    found = open_images(path, class_count=3, labels=NAMES)
    assert found.labels == (0, 0, 2)
    assert found.matches == (ClassMatch("Dog", 0, exact=False), ClassMatch("ant", 2, exact=True))
    path = manifest(tmp_path, "file,label\na.png,Dog\nb.png,dog\n")
    with pytest.raises(BadInput, match="the labels `Dog` and `dog` would both be class `0`"):
        open_images(path, class_count=3, labels=NAMES)


def test_calibration_manifest_needs_files_only(tmp_path: Path):
    found = open_calibration(manifest(tmp_path, "file,label\na.png,unheard of\n", "a.png"))
    assert (names(found), found.labels) == (["a.png"], None)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "has no column `file`"),
        ("path,class_index\na.png,1\n", "has no column `file`, only `path, class_index`"),
        ("file;class_index\na.png;1\n", "has no column `file`, only `file;class_index`"),
        ("file,wnid\na.png,n1\n", "has no column `class_index` or `label`, only `file, wnid`"),
        ("file,label,label\na.png,cat,cat\n", "two columns `label`"),
        ("file,class_index\n", "lists no files"),
        ("file,class_index\na.png,3\n", "line `2`: class `3` is out of range"),
        ("file,class_index\na.png,-1\n", "line `2`: `-1` is not a class index"),
        ("file,class_index\na.png,1_0\n", "`1_0` is not"),
        ("file,class_index\na.png,²\n", "is not a class index"),
        ("file,class_index\na.png,9999999999\n", "is not a class index"),
        ("file,class_index\na.png,1\na.png,2\n", "line `3`: `a.png` is already on line `2`"),
        ("file,class_index\na.png,1\n./a.png,2\n", "line `3`: `./a.png` is already on line `2`"),
        ("file,class_index\na.png\n", "line `2` has `1` cells, the header has `2`"),
        ("file,class_index\n/etc/passwd,1\n", "line `2`: `/etc/passwd` leads out"),
        ("file,class_index\nb/../../a.png,1\n", "leads out"),
        ("file,class_index\n..\\a.png,1\n", "leads out"),
        ("file,class_index\nC:\\a.png,1\n", "leads out"),
        ("file,class_index\n ,1\n", "names no file"),
        ('file,class_index\n"a.png,1\n', "is not CSV"),
        ("file,class_index\na.png,1\nb.png,1\nc.png,1\n", r"`2` of `3` files in .* missing, the first is `b.png` \(line 3\)"),
        ("file,label\na.png,cat\n", "no names are known"),
    ],
)
def test_bad_manifests(tmp_path: Path, text, match):
    with pytest.raises(BadInput, match=match) as caught:
        open_images(manifest(tmp_path, text, "a.png"), class_count=3)
    assert caught.value.hint
    assert "\n" not in caught.value.message


# --- lists


def listing(folder: Path, text: str, *images: str) -> Path:
    path = manifest(folder, "", *images).with_name("val.txt")
    path.write_text(text)
    return path


@pytest.mark.parametrize("gap", [" ", "\t", "  ", ", ", ","])
def test_a_list_of_paths_and_class_indices(tmp_path: Path, gap):
    path = listing(tmp_path, f"b/2.png{gap}2\r\n\na 1.png{gap}0\n", "a 1.png", "b/2.png", "unlisted.png")
    found = open_images(path, class_count=3)
    assert (names(found), found.labels, found.root) == (["a 1.png", "b/2.png"], (0, 2), tmp_path)
    assert (found.class_source, found.matches) == ("list of paths and class indices", ())
    assert names(open_calibration(path)) == ["a 1.png", "b/2.png"]
    assert open_calibration(path).labels is None


def test_a_list_of_paths_alone(tmp_path: Path):
    path = listing(tmp_path, "b/2.png\na.png\n", "a.png", "b/2.png")
    assert open_images(path, class_count=3).labels is None
    assert names(open_calibration(path)) == ["a.png", "b/2.png"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("\n", "lists no files"),
        ("a.png 3\n", "line `1`: class `3` is out of range"),
        ("a.png 1\n\na.png\n", "line `3` has no class index, others have one: `a.png`"),
        ("a.png 1\nb.png -1\n", "line `2` has no class index"),
        ("a.png 9999999999\n", "line `1`: `9999999999` is not a class index"),
        ("a.png 1\na.png 2\n", "line `2`: `a.png` is already on line `1`"),
        ("/etc/passwd 1\n", "line `1`: `/etc/passwd` leads out"),
        ("../a.png 1\n", "leads out"),
        ("a.png 1\nb.png 1\n", r"`1` of `2` files in .* missing, the first is `b.png` \(line 2\)"),
        ("1\n2\n", r"`2` of `2` files in .* missing, the first is `1`"),
    ],
)
def test_bad_lists(tmp_path: Path, text, match):
    with pytest.raises(BadInput, match=match) as caught:
        open_images(listing(tmp_path, text, "a.png"), class_count=3)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_lists_are_bounded(tmp_path: Path, monkeypatch):
    path = listing(tmp_path, "a.png 0\nb.png 0\n", "a.png", "b.png")
    monkeypatch.setattr(manifest_module, "MAX_ROWS", 1)
    with pytest.raises(BadInput, match="more than `1` rows"):
        open_calibration(path)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (("dog", "cow", "ant"), "line `2`: `cat` is not among the labels"),
        (("cat", "cow", "cat"), "`cat` is the name of classes `0` and `2`"),
        (("cat",), "`1` labels for a network of `3`"),
    ],
)
def test_manifest_labels_that_do_not_fit(tmp_path: Path, labels, match):
    with pytest.raises(BadInput, match=match):
        open_images(manifest(tmp_path, "file,label\na.png,cat\n", "a.png"), class_count=3, labels=Labels(labels))


def test_manifests_are_bounded(tmp_path: Path, monkeypatch):
    path = manifest(tmp_path, "file\na.png\nb.png\n", "a.png", "b.png")
    monkeypatch.setattr(manifest_module, "MAX_ROWS", 1)
    with pytest.raises(BadInput, match="more than `1` rows"):
        open_calibration(path)
    monkeypatch.setattr(manifest_module, "MAX_MANIFEST_BYTES", 9)
    with pytest.raises(BadInput, match="larger than `9` bytes"):
        open_calibration(path)


# --- streams


@pytest.mark.parametrize("workers", [1, 2, 5, None])
@pytest.mark.parametrize("batch", [1, 4, 7, 50])
def test_batches_come_in_order_whatever_the_threads(tmp_path: Path, workers, batch):
    files = draw_many(tmp_path, 13)
    got = list(ImageStream(open_calibration(tmp_path), SMALL, batch=batch, workers=workers))
    assert [len(b.files) for b in got] == [batch] * (13 // batch) + ([13 % batch] if 13 % batch else [])
    assert [file for b in got for file in b.files] == files
    np.testing.assert_array_equal(np.concatenate([b.pixels for b in got]), [load_pixels(file, SMALL) for file in files])
    assert [h for b in got for h in b.hashes] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert all(b.labels.dtype == np.int64 and (b.labels == -1).all() for b in got)


def test_labels_travel_with_their_images(tmp_path: Path):
    for index, name in enumerate(("dog/1.png", "cat/2.png", "ant/3.png")):
        draw(tmp_path / name, index)
    (batch,) = ImageStream(open_images(tmp_path, class_count=3, labels=NAMES), SMALL, batch=8)
    assert [(f.parent.name, int(label)) for f, label in zip(batch.files, batch.labels, strict=True)] == [
        ("ant", 2),
        ("cat", 1),
        ("dog", 0),
    ]


def test_broken_images_are_counted_then_refused(tmp_path: Path):
    files = draw_many(tmp_path, 12)
    for index in (5, 6, 11):
        files[index].write_bytes(b"torn")
    stream = ImageStream(open_calibration(tmp_path), SMALL, batch=2)
    seen = []
    with pytest.raises(BadInput) as caught:
        seen.extend(stream)
    assert caught.value.message == (
        f"`3` of `12` images cannot be read, the first is `005.png` (not one of JPEG, PNG, BMP, WEBP, TIFF, GIF{AVIF})"
    )
    assert caught.value.hint == "`--skip-broken` leaves them out"
    assert [f.name for b in seen for f in b.files] == ["000.png", "001.png", "002.png", "003.png"]


def test_broken_images_are_left_out_when_asked(tmp_path: Path):
    files = draw_many(tmp_path, 7)
    files[0].write_bytes(b"torn")
    files[3].write_bytes(files[3].read_bytes()[:60])
    stream = ImageStream(open_calibration(tmp_path), SMALL, batch=2, skip_broken=True)
    for _ in range(2):  # a second loop starts anew
        assert [[f.name for f in b.files] for b in stream] == [["001.png", "002.png"], ["004.png", "005.png"], ["006.png"]]
        assert [s.file for s in stream.skipped] == [files[0], files[3]]
        assert all(s.reason for s in stream.skipped)


def test_nothing_but_broken_images(tmp_path: Path):
    draw(tmp_path / "x.png").write_bytes(b"torn")
    with pytest.raises(BadInput, match="`1` of `1` images") as caught:
        list(ImageStream(open_calibration(tmp_path), SMALL, batch=2, skip_broken=True))
    assert caught.value.hint == "is it the right folder?"


@pytest.mark.parametrize("workers", [1, 5])
def test_duplicates_are_left_out_and_named(tmp_path: Path, workers):
    files = draw_many(tmp_path, 9)
    (tmp_path / "020.png").write_bytes(files[2].read_bytes())
    Image.open(files[2]).save(tmp_path / "021.bmp")  # another file with the same pixels
    Image.open(files[3]).save(tmp_path / "000.tif")
    stream = ImageStream(open_calibration(tmp_path), SMALL, batch=4, workers=workers)
    for _ in range(2):  # a second loop starts anew
        batches = list(stream)
        assert [len(batch.files) for batch in batches] == [4, 4, 1]
        assert {file.name for batch in batches for file in batch.files} & {"003.png", "020.png", "021.bmp"} == set()
        assert [(one.file.name, one.original.name, one.same_class) for one in stream.duplicates] == [
            ("003.png", "000.tif", True),
            ("020.png", "002.png", True),
            ("021.bmp", "002.png", True),
        ]
    assert stream.left_out_count == 3
    assert stream.warnings("training images") == (
        "`3` duplicate training images were left out: `003.png` shows the same as `000.tif`",
    )
    assert ImageStream(open_calibration(tmp_path), SMALL).load()[0].pixels.shape == (9, 6, 6, 3)


def test_a_single_different_pixel_makes_another_image(tmp_path: Path):
    pixels = np.array(Image.open(draw(tmp_path / "a.png")).resize((6, 6)))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    pixels[3, 3, 1] ^= 1
    Image.fromarray(pixels).save(tmp_path / "b.png")
    stream = ImageStream(open_calibration(tmp_path), Preprocess(6, 6, "bilinear", "rgb", (0, 0, 0), (1, 1, 1)))
    assert len(stream.load()[0].files) == 2


def test_an_image_under_two_classes_is_said(tmp_path: Path):
    for name in ("ant/1.png", "cat/2.png", "dog/3.png"):
        draw(tmp_path / name, 1)
    draw(tmp_path / "dog" / "4.png", 2)
    stream = ImageStream(open_images(tmp_path, class_count=3, labels=NAMES), SMALL)
    assert [int(label) for batch in stream for label in batch.labels] == [2, 0]
    pair = "`ant/1.png` and `cat/2.png`"
    assert stream.warnings("photographs")[1] == (
        f"`2` photographs stand under two classes, the first are {pair}: only the first of each pair counts"
    )


def test_work_ahead_is_bounded_and_stops_with_the_consumer(tmp_path: Path, monkeypatch):
    draw_many(tmp_path, 60)
    read = []

    def counting(path, original=stream_module.read_image_bytes):
        read.append(path)
        return original(path)

    monkeypatch.setattr(stream_module, "read_image_bytes", counting)
    stream = iter(ImageStream(open_calibration(tmp_path), SMALL, batch=4, workers=2))
    next(stream)
    deadline = time.monotonic() + 60
    while len(read) < 12 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(read) == 4 + 2 * 4  # the batch handed over and two more
    stream.close()
    assert len(read) == 12
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_progress_and_cores(tmp_path: Path):
    draw_many(tmp_path, 5)
    told = []
    list(ImageStream(open_calibration(tmp_path), SMALL, batch=2, progress=lambda *step: told.append(step)))
    assert told == [("reading images", 2, 5), ("reading images", 4, 5), ("reading images", 5, 5)]
    assert usable_cores() >= 1


def test_cores_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": 1, "workers": 0}])
def test_counts_below_one_are_refused(tmp_path: Path, options):
    draw(tmp_path / "a.png")
    with pytest.raises(BadInput, match="`0` is below 1"):
        ImageStream(open_calibration(tmp_path), SMALL, **options)


def test_a_crop_larger_than_the_image_is_refused_before_reading(tmp_path: Path):
    draw(tmp_path / "a.png")
    with pytest.raises(BadInput, match="less than the crop"):
        ImageStream(open_calibration(tmp_path), Preprocess(5, 6, "bilinear", "rgb", (0, 0, 0), (1, 1, 1)), batch=1)


def test_load(tmp_path: Path):
    files = draw_many(tmp_path, 40)
    files[7].write_bytes(b"torn")
    image_set = open_calibration(tmp_path)
    with pytest.raises(BadInput, match="`1` of `40`"):
        ImageStream(image_set, SMALL).load()
    images, skipped = ImageStream(image_set, SMALL, skip_broken=True).load()
    assert images.files == tuple(files[:7] + files[8:])
    assert [s.file for s in skipped] == [files[7]]
    np.testing.assert_array_equal(images.pixels, [load_pixels(file, SMALL) for file in images.files])
    assert (images.labels.shape, len(images.hashes)) == ((39,), 39)


def test_load_all_is_bounded(tmp_path: Path, monkeypatch):
    draw_many(tmp_path, 3)
    monkeypatch.setattr(stream_module, "MAX_LOADED_BYTES", 2 * 6 * 6 * 3)
    with pytest.raises(BadInput, match="`3` images of 6 px need `0` MB") as caught:
        ImageStream(open_calibration(tmp_path), SMALL).load()
    assert "at most 2 images" in str(caught.value.hint)


# --- the real thing


def test_imagenet_folders_by_wnid(assets: Path):
    folder = assets / "images"
    wnids = read_labels(folder / "imagenet_wnids.txt")
    found = open_images(folder / "eval", class_count=1000, labels=wnids)
    with (folder / "labels.csv").open() as file:
        expected = {row["file"]: int(row["class_index"]) for row in csv.DictReader(file)}
    assert len(found.files) == 472
    assert {f"eval/{name}": label for name, label in zip(names(found), found.labels, strict=True)}.items() <= expected.items()
    listed = open_images(folder / "labels.csv", class_count=1000, labels=wnids)
    assert len(listed.files) == 600
    with pytest.raises(BadInput, match="`285` folders cannot be matched to `1000` classes"):
        open_images(folder / "eval", class_count=1000)
    with pytest.raises(BadInput, match="`285` of `285` folders are not among the labels"):
        open_images(folder / "eval", class_count=1000, labels=read_labels(folder / "imagenet_classes.txt"))


def test_imagenet_folders_with_readable_names_and_as_a_list(tmp_path: Path, assets: Path):
    folder = assets / "images"
    wnids, readable = (read_labels(folder / f"imagenet_{name}.txt") for name in ("wnids", "classes"))
    expected = open_images(folder / "eval", class_count=1000, labels=wnids)
    words = "".join(f"{wnid} {name}\n" for wnid, name in zip(wnids.names, readable.names, strict=True))
    (tmp_path / "synset_words.txt").write_text(words)
    found = open_images(folder / "eval", class_count=1000, labels=read_labels(tmp_path / "synset_words.txt"))
    assert found == expected
    assert all(match.exact for match in found.matches)
    assert len(found.matches) == 285
    (tmp_path / "eval").symlink_to(folder / "eval")
    lines = [f"eval/{name} {label}\n" for name, label in zip(names(expected), expected.labels, strict=True)]
    (tmp_path / "val.txt").write_text("".join(reversed(lines)))
    assert open_images(tmp_path / "val.txt", class_count=1000).labels == expected.labels


def test_imagenet_calibration(assets: Path):
    images, skipped = ImageStream(open_calibration(assets / "images" / "calib"), TORCHVISION).load()
    assert images.pixels.shape == (128, 224, 224, 3)
    assert skipped == ()
    assert len(set(images.hashes)) == 128
