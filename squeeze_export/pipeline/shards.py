"""The images of a validation in shards: a shard is compared by itself, anywhere; what all have found makes the figures.

A shard keeps a small record of each image and of each answer. The figures are exact sums over all records in the order of the
images, so it does not show who compared which shard, or when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from squeeze_export.core import ByteArray, Ending, FloatArray, Progress, Session, silent
from squeeze_export.errors import SqueezeExportError
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.checks import check_overlap
from squeeze_export.images.manifest import UNKNOWN
from squeeze_export.images.stream import Batch, Duplicate, ImageStream, Skipped, spread_evenly
from squeeze_export.measure.accuracy import (
    ANSWER,
    COMPARED,
    Records,
    accuracy_of,
    answers_each,
    check_comparable,
    compared_each,
    summed,
    varies,
)
from squeeze_export.measure.answers import MOST_NAMES, packed, packed_answers, packed_names
from squeeze_export.measure.host import host_facts
from squeeze_export.pipeline.comparison import ComparedPart
from squeeze_export.pipeline.sessions import Key
from squeeze_export.results import NOT_RUN, Accuracy, Answers, ComparedImages

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARD_IMAGES = 1000

ABSENT, SOUND, BROKEN, DUPLICATE = range(4)
IMAGE = np.dtype([("state", "u1"), ("label", "<i4"), ("sha256", "u1", 32), ("pixels", "<u8"), ("hundredths", "<i2", len("bcwctd"))])
"""One file of the set: what became of it, its class or -1, its SHA-256, the first 64 bits of that of its pixels, and
`distribution.image_statistics`, which are whole hundredths."""


@dataclass(frozen=True, eq=False)
class Shard:
    """What was found out about the images of a shard; every array has a record for each of its files.

    Attributes:
        start: place of its first image in the set.
        images: (N,) of `IMAGE`.
        reference: (N,) of `ANSWER`: what the fp32 reference answered.
        answers: (N,) of `COMPARED` of each session; `top1` is `NOT_RUN` for an image that it was not given.
        reasons: why each broken image cannot be read, in their order.
        first: (C,) the reference's output for the first image that could be read; empty if none could.
        varies: whether the reference's output differs for any other.
        cpu: `cpu_kind` of the machine that compared it.
    """

    start: int
    images: Records
    reference: Records
    answers: Mapping[Key, Records]
    reasons: tuple[str, ...]
    first: FloatArray
    varies: bool
    cpu: str


@dataclass(eq=False)
class ShardRunner:
    """Compares shards with the reference, on the sessions of this process.

    Attributes:
        graph: the fp32 reference.
        sessions: what each session is called, and what its file ends in.
        pool: runs images side by side.
        total: images of the whole set.
        emulated_images: images of the whole set for sessions that emulate a device.
        forbidden: SHA-256 of the files that must not be among the images.
        listeners: called with a part of every batch.
        failed: told of a session that fails; it is given no more images, unless this raises.
    """

    graph: Graph
    sessions: dict[Key, tuple[Session, Ending]]
    pool: Executor
    total: int
    emulated_images: int
    forbidden: Sequence[str] = ()
    listeners: Sequence[Callable[[ComparedPart], None]] = ()
    failed: Callable[[Key, SqueezeExportError], None] = field(default=lambda key, err: None)

    def __post_init__(self) -> None:
        self._reference, self._cpu = FloatRunner(self.graph), cpu_kind()
        self._all_sessions = {key: session for key, (session, _) in self.sessions.items()}
        self._locks = {key: Lock() for key in self.sessions}

    def run(self, start: int, stream: ImageStream, progress: Progress = silent) -> Shard:
        """Compares a shard.

        Args:
            start: place of its first image in the set.
            stream: its images.
            progress: told of the images, as places in the set.

        Raises:
            BadInput: an image that must not be there, broken images unless they are left out.
        """
        image_set, count = stream.image_set, len(stream.image_set.files)
        places = {file: place for place, file in enumerate(image_set.files)}
        images, reference = np.zeros(count, IMAGE), _none_run(count, ANSWER)
        images["label"] = UNKNOWN if image_set.labels is None else image_set.labels
        answers = {key: _none_run(count, COMPARED) for key in self.sessions}
        first, other = np.empty(0, np.float32), False
        # Spread over the files, so that it does not matter which of them are broken.
        part_of_set = spread_evenly(start, count, self.total, self.emulated_images)
        for running in _one_ahead(self._start(batch, places, part_of_set) for batch in stream):
            batch, at, part = running.batch, running.at, running.part
            images["state"][at] = SOUND
            images["sha256"][at] = np.frombuffer(bytes.fromhex("".join(batch.hashes)), np.uint8).reshape(-1, 32)
            images["pixels"][at] = [int.from_bytes(digest[:8], "little") for digest in batch.pixel_hashes]
            images["hundredths"][at] = np.round(100 * batch.statistics)
            expected = np.concatenate([future.result() for future in running.reference])
            reference[at] = answers_each(expected, batch.labels)
            outputs: dict[Key, FloatArray] = {}
            for key, future in running.outputs.items():
                if key not in self.sessions:
                    continue  # it failed on the batch before, when this one was on its way
                try:
                    outputs[key] = future.result()
                except SqueezeExportError as err:
                    self.failed(key, err)
                    del self.sessions[key], answers[key]
                    continue
                mask = running.chosen[key]
                check_comparable(expected[mask], outputs[key], batch.labels[mask])
                ending = self.sessions[key][1]
                answers[key][at[mask]] = compared_each(expected[mask], outputs[key], batch.labels[mask], ending=ending)
            first = first if first.size else expected[0]
            other = other or varies(expected, first)
            if self.listeners and part.any():
                shown = {key: logits if running.chosen[key] is part else logits[part] for key, logits in outputs.items()}
                for listener in self.listeners:
                    listener(ComparedPart(batch.pixels[part], batch.labels[part], expected[part], shown, self.pool))
            progress("comparing", start + int(at[-1]) + 1, self.total)
        for skipped in stream.skipped:
            images["state"][places[skipped.file]] = BROKEN
        for duplicate in stream.duplicates:
            images["state"][places[duplicate.file]] = DUPLICATE
            images["pixels"][places[duplicate.file]] = images["pixels"][places[duplicate.original]]
        reasons = tuple(skipped.reason for skipped in stream.skipped)
        return Shard(start, images, reference, answers, reasons, first, other, self._cpu)

    def _start(self, batch: Batch, places: Mapping[Path, int], part_of_set: NDArray[np.bool_]) -> _Running:
        """Hands a batch to the pool.

        Raises:
            BadInput: an image that must not be there.
        """
        check_overlap(self.forbidden, batch.hashes, batch.files)
        at = np.array([places[file] for file in batch.files])
        part = part_of_set[at]
        everything = np.ones_like(part)
        chosen = {key: part if s.evidence == "emulated" else everything for key, (s, _) in self.sessions.items()}
        outputs = {key: self.pool.submit(self._infer, key, batch.pixels[mask]) for key, mask in chosen.items() if mask.any()}
        reference = [self.pool.submit(self._reference, image[None]) for image in batch.pixels]
        return _Running(batch, at, part, chosen, outputs, reference)

    def _infer(self, key: Key, pixels: ByteArray) -> FloatArray:
        """Runs a session, which takes one batch at a time."""
        with self._locks[key]:
            return self._all_sessions[key].infer(pixels)


@dataclass(frozen=True, eq=False)
class _Running:
    """A batch that the pool works on.

    Attributes:
        batch: of N images.
        at: (N,) their places in the shard.
        part: (N,) which of them sessions that emulate a device get.
        chosen: (N,) which of them each session gets.
        outputs: of each session that gets any.
        reference: N, of the reference.
    """

    batch: Batch
    at: NDArray[np.int64]
    part: NDArray[np.bool_]
    chosen: Mapping[Key, NDArray[np.bool_]]
    outputs: Mapping[Key, Future[FloatArray]]
    reference: Sequence[Future[FloatArray]]


def _one_ahead(batches: Iterable[_Running]) -> Iterator[_Running]:
    """The batches, each handed on once the next one runs: no core waits while the figures of a batch are taken."""
    waiting = deque[_Running]()
    for running in batches:
        waiting.append(running)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


class Findings:
    """What all shards have found, put together in whatever order they come.

    Args:
        stream: the whole set.
        class_count: of the network.
    """

    def __init__(self, stream: ImageStream, class_count: int) -> None:
        self._stream, self._class_count = stream, class_count
        count = len(stream.image_set.files)
        self.images, self.reference = np.zeros(count, IMAGE), _none_run(count, ANSWER)
        self.answers: dict[Key, Records] = {}
        self._reasons: dict[int, tuple[str, ...]] = {}
        self._first: dict[int, FloatArray] = {}
        self._varies = False
        self._cpus: set[str] = set()

    def add(self, shard: Shard) -> None:
        """Adds a shard. Of a session that failed in one there are no answers at all."""
        at = slice(shard.start, shard.start + len(shard.images))
        self.images[at], self.reference[at] = shard.images, shard.reference
        if not self._first:
            self.answers = {key: _none_run(len(self.images), COMPARED) for key in shard.answers}
        for key in set(self.answers) - set(shard.answers):
            del self.answers[key]
        for key in self.answers:
            self.answers[key][at] = shard.answers[key]
        self._reasons[shard.start], self._first[shard.start] = shard.reasons, shard.first
        self._varies = self._varies or shard.varies
        self._cpus.add(shard.cpu)

    @property
    def warnings(self) -> tuple[str, ...]:
        """That the machines differ, if they do."""
        if len(self._cpus) < 2:
            return ()
        kinds = "; ".join(sorted(self._cpus))
        return (f"the images were compared on CPUs of {len(self._cpus)} kinds, whose kernels may round differently: {kinds}",)

    @property
    def broken(self) -> bool:
        """Whether an image so far cannot be read."""
        return any(self._reasons.values())

    def close(self) -> None:
        """Tells the stream what was left out: broken images, and duplicates of an image before them, in whatever shard it is.

        Raises:
            BadInput: broken images, unless they are left out.
        """
        image_set, state = self._stream.image_set, self.images["state"]
        readable = np.flatnonzero((state == SOUND) | (state == DUPLICATE))
        _, first, inverse = np.unique(self.images["pixels"][readable], return_index=True, return_inverse=True)
        originals = readable[first[inverse]]
        state[readable] = np.where(originals == readable, SOUND, DUPLICATE)
        labels = self.images["label"]
        again = originals != readable
        duplicates = [
            Duplicate(image_set.files[place], image_set.files[original], same_class=bool(labels[place] == labels[original]))
            for place, original in zip(readable[again].tolist(), originals[again].tolist(), strict=True)
        ]
        reasons = [reason for _, found in sorted(self._reasons.items()) for reason in found]
        broken = np.flatnonzero(state == BROKEN).tolist()
        skipped = [Skipped(image_set.files[place], reason) for place, reason in zip(broken, reasons, strict=True)]
        self._stream.take_over(skipped, duplicates, self.images["hundredths"][self.places] / 100)

    @property
    def places(self) -> NDArray[np.int64]:
        """Where the images that count stand in the set."""
        return np.flatnonzero(self.images["state"] == SOUND)

    def accuracy(self, key: Key) -> Accuracy | None:
        """The figures of a session; None if it was given no image."""
        ran = self.places[self.answers[key]["top1"][self.places] != NOT_RUN]
        if not len(ran):
            return None
        outputs = [output for _, output in sorted(self._first.items()) if output.size]
        sums = summed(self.reference[ran], self.answers[key][ran], self._class_count)
        return accuracy_of(replace(sums, reference_varies=self._varies or varies(np.stack(outputs), outputs[0])))

    def packed_answers(self, key: Key) -> Answers:
        """What a session answered."""
        return packed_answers(self.answers[key][self.places])

    def compared_images(self, class_names: Sequence[str]) -> ComparedImages:
        """The images that count, and what the reference answered."""
        places, image_set = self.places, self._stream.image_set
        heads = np.ascontiguousarray(self.images["sha256"][places, :8]).view(">u8")[:, 0]
        names = [shown_name(image_set.files[place], image_set.root) for place in places[: MOST_NAMES + 1]]
        return ComparedImages(
            packed(heads >> 1),
            packed(self.images["label"][places]),
            packed_answers(self.reference[places]),
            packed_names(names),
            packed_names(class_names),
        )

    def file(self, place: int) -> str:
        """The name of an image, as `compared_images` has it."""
        return shown_name(self._stream.image_set.files[place], self._stream.image_set.root)


def cpu_kind() -> str:
    """Architecture and instruction sets of this machine's CPU, and the kernels that the reference's BLAS chose for it."""
    from threadpoolctl import threadpool_info

    facts = host_facts()
    blas = {str(library.get("architecture", "")) for library in threadpool_info() if library["user_api"] == "blas"}
    return " ".join(filter(None, [str(facts.get("architecture", "unknown")), *facts.get("isa", ()), *sorted(blas)]))


def shown_name(file: Path, root: Path) -> str:
    """The path below `root`, with slashes; of a file elsewhere its name."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name


def _none_run(count: int, kind: np.dtype[np.void]) -> Records:
    records = np.zeros(count, kind)
    records["top1"] = records["label_rank"] = NOT_RUN
    return records
