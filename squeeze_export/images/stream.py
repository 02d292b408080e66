"""Reads image sets: decoded in threads, handed over in order, in batches."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from squeeze_export.core import Preprocess, Progress, silent
from squeeze_export.errors import BadInput
from squeeze_export.images.distribution import STATISTICS, image_statistics
from squeeze_export.images.folders import ImageSet
from squeeze_export.images.manifest import UNKNOWN
from squeeze_export.images.names import shown_file
from squeeze_export.images.preprocess import BrokenImage, check_preprocess, decode, fit, read_image_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeeze_export.core import ByteArray

MAX_LOADED_BYTES = 2_000_000_000
KEPT_BYTES = 200_000_000
"""A set that is looped over again stays in memory if its pixels take no more: 1,300 images at 224 px."""

SHARD_BATCH = 32
"""Images a batch of a shard, at least: cores wait for each other at the end of each batch."""

# Batches decoded while the consumer computes: one being handed over, one in the making. More would only hold memory.
_BATCHES_AHEAD = 2


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images of a set, in its order.

    Attributes:
        pixels: (N, H, W, C) uint8 of the network's input size, RGB or grey.
        labels: (N,) int64, class index, -1 where unknown.
        files: N paths.
        hashes: N SHA-256 of the files' bytes, hexadecimal.
        statistics: (N, 6) what `distribution.image_statistics` reads off each image.
        pixel_hashes: N SHA-256 of the pixels.
    """

    pixels: ByteArray
    labels: NDArray[np.int64]
    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    statistics: NDArray[np.float64]
    pixel_hashes: tuple[bytes, ...]

    def split(self, size: int) -> Iterator[Batch]:
        """Its images in batches of at most `size`."""
        for start in range(0, len(self.files), size):
            part = slice(start, start + size)
            yield Batch(
                self.pixels[part],
                self.labels[part],
                self.files[part],
                self.hashes[part],
                self.statistics[part],
                self.pixel_hashes[part],
            )


@dataclass(frozen=True)
class Skipped:
    """A broken image that was left out.

    Attributes:
        file: its path.
        reason: why it cannot be read.
    """

    file: Path
    reason: str


@dataclass(frozen=True)
class Duplicate:
    """An image that was left out because one before it has the same pixels.

    Attributes:
        file: its path.
        original: the one before it.
        same_class: whether both stand under one class.
    """

    file: Path
    original: Path
    same_class: bool


_Image: TypeAlias = "tuple[ByteArray, int, Path, str, NDArray[np.float64], bytes]"
"""One image of a `Batch`: its pixels, label, file, hash and statistics, and a hash of the pixels."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS, Windows


@dataclass(eq=False)
class ImageStream:
    """An image set as batches; each `for` loop over it reads the files anew, unless they were kept.

    Decoding runs in threads (Pillow lets go of the interpreter lock in decoding and resizing), at most two batches ahead of the
    consumer. Batches come in the order of the set and all but the last are full, however many threads there are.

    Iterating raises `BadInput` where images are broken, after the rest was looked through to count them; no batch is handed
    over after the first broken image. With `skip_broken` they are left out, and it raises only where none is left.

    An image with the very pixels of one before it is left out, whatever file it comes in: it would count twice.

    Attributes:
        image_set: from `open_images` or `open_calibration`.
        preprocess: how files become pixels.
        batch: images a batch; the last one may be smaller.
        workers: decoding threads; None takes every usable core.
        skip_broken: leaves broken images out (see `skipped`) where they would be refused.
        may_be_empty: then even if all are.
        keep_bytes: a set whose pixels take no more is read as a whole by the first loop, and kept for the others.
        progress: called every `batch` images, in the consumer's thread.

    Raises:
        BadInput: the crop is larger than the resized image, or `batch` or `workers` is below 1.
    """

    image_set: ImageSet
    preprocess: Preprocess
    _: KW_ONLY
    batch: int = 32
    workers: int | None = None
    skip_broken: bool = False
    may_be_empty: bool = False
    keep_bytes: int = 0
    progress: Progress = silent

    def __post_init__(self) -> None:
        check_preprocess(self.preprocess)
        self._threads = usable_cores() if self.workers is None else self.workers
        for name, value in (("batch", self.batch), ("workers", self._threads)):
            if value < 1:
                raise BadInput(f"{name} `{value}` is below 1", hint="a whole number from 1 up")
        self._skipped: list[Skipped] = []
        self._duplicates: list[Duplicate] = []
        self._statistics: list[NDArray[np.float64]] = []
        self._kept: Batch | None = None

    @property
    def statistics(self) -> NDArray[np.float64]:
        """(M, 6) `Batch.statistics` of the latest loop so far, in order; complete once the loop has ended."""
        return np.concatenate([np.empty((0, len(STATISTICS))), *self._statistics])

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The broken images of the latest loop so far, in order; complete once the loop has ended."""
        return tuple(self._skipped)

    @property
    def duplicates(self) -> tuple[Duplicate, ...]:
        """The duplicates of the latest loop so far, in order; complete once the loop has ended."""
        return tuple(self._duplicates)

    @property
    def left_out_count(self) -> int:
        """Broken images and duplicates."""
        return len(self._skipped) + len(self._duplicates)

    def warnings(self, what: str) -> tuple[str, ...]:
        """What was left out, one line each; `what` the images are, such as `calibration images`."""
        found = [f"{what} not read: {line}" for line in self.image_set.not_read]
        if self._skipped:
            found.append(f"`{len(self._skipped)}` unreadable {what} were left out, the first is `{self._skipped[0].file.name}`")
        if self._duplicates:
            first, root = self._duplicates[0], self.image_set.root
            alike = f"{shown_file(first.file, root)} shows the same as {shown_file(first.original, root)}"
            found.append(f"`{len(self._duplicates)}` duplicate {what} were left out: {alike}")
        odd = [duplicate for duplicate in self._duplicates if not duplicate.same_class]
        if odd:
            pair = " and ".join(shown_file(file, self.image_set.root) for file in (odd[0].original, odd[0].file))
            found.append(f"`{len(odd)}` {what} stand under two classes, the first are {pair}: only the first of each pair counts")
        return tuple(found)

    def shards(self, size: int) -> Iterator[tuple[int, ImageStream]]:
        """Its images in shards, made as they are asked for, that can be read one by one, anywhere and in any order.

        A shard leaves out the duplicates among its own images, and broken ones, even if all are: `take_over` tells this stream of
        them. A set that is kept in memory is one shard.

        Args:
            size: images a shard; the last one may be smaller.

        Returns:
            The place of each shard's first image in the set, and the shard.
        """
        count = len(self.image_set.files)
        if self._kept is not None or self.size_bytes <= self.keep_bytes or count <= size:
            return iter([(0, self)])
        return ((start, self._shard(start, min(start + size, count))) for start in range(0, count, size))

    def _shard(self, start: int, stop: int) -> ImageStream:
        part = self.image_set.part(start, stop)
        batch = max(self.batch, SHARD_BATCH)
        return replace(self, image_set=part, batch=batch, skip_broken=True, may_be_empty=True, progress=silent)

    def take_over(self, skipped: Sequence[Skipped], duplicates: Sequence[Duplicate], statistics: NDArray[np.float64]) -> None:
        """Takes what loops over all shards have found for its own.

        Raises:
            BadInput: images are broken, and they are not to be left out, or none is left.
        """
        self._skipped, self._duplicates, self._statistics = list(skipped), list(duplicates), [statistics]
        self._check_broken()

    def load(self) -> tuple[Batch, tuple[Skipped, ...]]:
        """Reads the whole set into memory, and keeps it for later loops.

        Returns:
            all images as one batch, and the broken ones that were left out (empty unless that was asked for).

        Raises:
            BadInput: broken images, or the pixels would take more than `MAX_LOADED_BYTES`.
        """
        if self._kept is not None:
            return self._kept, self.skipped
        count = len(self.image_set.files)
        if self.size_bytes > MAX_LOADED_BYTES:
            raise BadInput(
                f"`{count}` images of {self.preprocess.size_text} px need `{self.size_bytes // 10**6:,}` MB of memory, "
                f"above the limit of {MAX_LOADED_BYTES // 10**6:,} MB",
                hint=f"pass at most {MAX_LOADED_BYTES // (self.size_bytes // count):,} images; a few hundred calibrate as well",
            )
        pixels = np.empty((count, *self.preprocess.input_size), np.uint8)
        labels = np.empty(count, np.int64)
        files: list[Path] = []
        hashes: list[str] = []
        pixel_hashes: list[bytes] = []
        for batch in self._read_all():
            place = slice(len(files), len(files) + len(batch.files))
            pixels[place], labels[place] = batch.pixels, batch.labels
            files += batch.files
            hashes += batch.hashes
            pixel_hashes += batch.pixel_hashes
        kept = len(files)
        self._kept = Batch(pixels[:kept], labels[:kept], tuple(files), tuple(hashes), self.statistics, tuple(pixel_hashes))
        return self._kept, self.skipped

    @property
    def size_bytes(self) -> int:
        """Of all pixels in memory."""
        return len(self.image_set.files) * math.prod(self.preprocess.input_size)

    def __iter__(self) -> Iterator[Batch]:
        if self.size_bytes <= self.keep_bytes:
            self.load()
        return self._read_all() if self._kept is None else self._kept.split(self.batch)

    def _read_all(self) -> Iterator[Batch]:
        self._skipped, self._duplicates, self._statistics = [], [], []
        count = len(self.image_set.files)
        seen: dict[bytes, tuple[Path, int]] = {}
        waiting: list[_Image] = []
        with closing(self._decoded()) as decoded:
            for done, image in enumerate(decoded, start=1):
                if done % self.batch == 0 or done == count:
                    self.progress("reading images", done, count)
                if isinstance(image, Skipped):
                    self._skipped.append(image)
                elif (original := seen.setdefault(image[5], (image[2], image[1])))[0] != image[2]:
                    self._duplicates.append(Duplicate(image[2], original[0], same_class=original[1] == image[1]))
                elif self.skip_broken or not self._skipped:
                    waiting.append(image)
                if len(waiting) == self.batch:
                    full, waiting = waiting, []
                    yield self._join(full)
        self._check_broken()
        if waiting:
            yield self._join(waiting)

    def _decoded(self) -> Generator[_Image | Skipped, None, None]:
        """Every image in order. Closing this early gives up what has not started."""
        count = len(self.image_set.files)
        ahead = max(_BATCHES_AHEAD * self.batch, 2 * self._threads)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="decode") as pool:
            pending: deque[Future[_Image | Skipped]] = deque()
            try:
                for index in range(min(ahead, count)):
                    pending.append(pool.submit(self._read, index))
                for index in range(count):
                    result = pending.popleft().result()
                    if index + ahead < count:
                        pending.append(pool.submit(self._read, index + ahead))
                    yield result
            finally:
                for future in pending:
                    future.cancel()

    def _read(self, index: int) -> _Image | Skipped:
        """Hashes and decodes one file from the same bytes; runs in a worker thread."""
        file = self.image_set.files[index]
        try:
            data = read_image_bytes(file)
            pixels = fit(decode(io.BytesIO(data), file), self.preprocess, file)
        except BrokenImage as err:
            return Skipped(file, err.reason)
        label = self.image_set.labels[index] if self.image_set.labels else UNKNOWN
        of_pixels = hashlib.sha256(np.ascontiguousarray(pixels).data).digest()
        return pixels, label, file, hashlib.sha256(data).hexdigest(), image_statistics(pixels), of_pixels

    def _join(self, images: Sequence[_Image]) -> Batch:
        pixels, labels, files, hashes, statistics, pixel_hashes = zip(*images, strict=True)
        self._statistics.append(np.stack(statistics))
        return Batch(np.stack(pixels), np.array(labels, np.int64), files, hashes, self._statistics[-1], pixel_hashes)

    def _check_broken(self) -> None:
        all_broken = len(self._skipped) == len(self.image_set.files)
        if not self._skipped or (self.skip_broken and (self.may_be_empty or not all_broken)):
            return
        first = self._skipped[0]
        what = f"`{len(self._skipped)}` of `{len(self.image_set.files)}` images cannot be read"
        message = f"{what}, the first is {shown_file(first.file, self.image_set.root)} ({first.reason})"
        raise BadInput(message, hint="is it the right folder?" if self.skip_broken else "`--skip-broken` leaves them out")


def spread_evenly(done: int, count: int, total: int, limit: int) -> NDArray[np.bool_]:
    """Which of the next images belong to a part of the set that is spread evenly over it.

    Args:
        done: images before these.
        count: these images.
        total: images of the set.
        limit: images of the part; all belong to it where there are no more.

    Returns:
        (count,).
    """
    index = np.arange(done, done + count, dtype=np.int64)
    return index * limit % total < limit if total > limit else np.ones(count, np.bool_)
