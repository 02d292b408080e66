"""Shards compared by Ray's workers, on this machine or on a cluster.

A task is given paths and the SHA-256 of what they lead to: files and images must be under the same paths on every machine, on a
shared file system. Only the reference travels, as the bytes of its graph file. Ray runs the task of a worker that dies on another.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from squeeze_export import __version__
from squeeze_export.core import Progress, require
from squeeze_export.errors import BadInput, Refused, SqueezeExportError, Unavailable
from squeeze_export.files import content_sha256, reading
from squeeze_export.graph.run import one_blas_thread
from squeeze_export.graph.table import graph_bytes, read_graph
from squeeze_export.images.folders import ImageSet
from squeeze_export.images.stream import ImageStream, usable_cores
from squeeze_export.pipeline.foreign import artifact_content
from squeeze_export.pipeline.journal import seal
from squeeze_export.pipeline.sessions import Entry, RunOptions, opened
from squeeze_export.pipeline.shards import Shard, ShardRunner

RETRIES = 3
"""How often Ray runs a task again whose worker died."""
_OBJECTS_BYTES = 128 << 20
"""Ray's store of objects on this machine: a shard is a few hundred kilobytes."""
_SAME_FILES = "files and images must be under the same paths on every machine"


@dataclass(frozen=True, eq=False)
class _Work:
    """What every task needs.

    Attributes:
        name: of this validation; a worker keeps its sessions open from one task to the next.
        version: of this package.
        graph: the reference as a file's bytes.
        entries: files and their runtimes.
        options: how to run them.
        total: images of the whole set.
        emulated_images: as in `ShardRunner`.
        forbidden: likewise.
        batch: images a batch.
    """

    name: str
    version: str
    graph: bytes
    entries: tuple[Entry, ...]
    options: RunOptions
    total: int
    emulated_images: int
    forbidden: tuple[str, ...]
    batch: int


@dataclass(frozen=True, eq=False)
class _Part:
    """One shard's images: where they are, and the `seal` of what is there."""

    start: int
    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...] | None
    seal: str


class Cluster:
    """Ray, started or connected to while the context is open; it reports no usage to anybody, and prints nothing.

    Args:
        engine: `ray` or `ray://HOST:PORT`.
        runner: of this process, whose reference and options the workers take.
        entries: files and their runtimes.
        options: how to run them.
    """

    def __init__(self, engine: str, runner: ShardRunner, entries: Sequence[Entry], options: RunOptions) -> None:
        self._address = engine if engine != "ray" else os.environ.get("RAY_ADDRESS", "local")
        self._runner, self._options = runner, options
        self._entries = tuple(Entry(replace(e.artifact, path=e.artifact.path.absolute()), e.runtime) for e in entries)
        self._keys = {entry.key: given.key for entry, given in zip(self._entries, entries, strict=True)}
        self._own = False
        self._quiet = redirect_stdout(_WithoutRay(sys.stdout))

    @staticmethod
    def check(options: RunOptions) -> None:
        """Refuses what Ray's workers cannot do.

        Raises:
            BadInput: another device than the CPU, a board, or CPUs to pin to.
            NotInstalled: Ray is not installed.
        """
        if options.on is not None or options.device != "cpu" or options.cpus is not None:
            raise BadInput("Ray's workers run files on their own CPUs", hint="leave out --on, --device and --cpus, or --engine")
        _ray()

    def __enter__(self) -> Cluster:
        ray = _ray()
        if ray.is_initialized():
            return self
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address == "local":
            settings |= {"num_cpus": usable_cores(), "include_dashboard": False, "object_store_memory": _OBJECTS_BYTES}
        self._quiet.__enter__()
        try:
            ray.init(address=self._address, **settings)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as err:
            self._quiet.__exit__(None, None, None)
            message = f"Ray cannot be reached at `{self._address}`: {str(err).splitlines()[0] if str(err) else type(err).__name__}"
            raise Unavailable(message, hint="--engine ray://HOST:10001, where `ray start --head` runs") from err
        self._own = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._own:
            _ray().shutdown()
            self._quiet.__exit__(None, None, None)

    def run(self, parts: Iterator[tuple[int, ImageStream]], stream: ImageStream, progress: Progress) -> Iterator[Shard]:
        """Shards as they are done.

        Args:
            parts: each shard's place, and its images.
            stream: the whole set.
            progress: told of the images.

        Raises:
            SqueezeExportError: what a worker could not do; its machine has not the same files; Ray gave up on a shard.
        """
        ray, runner = _ray(), self._runner
        work = _Work(
            secrets.token_hex(8),
            __version__,
            graph_bytes(runner.graph),
            self._entries,
            self._options,
            runner.total,
            runner.emulated_images,
            tuple(runner.forbidden),
            stream.batch,
        )
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(compare_part)
        shared = ray.put(work)
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        running: list[Any] = []
        done = 0
        more = True
        while running or more:
            while more and len(running) < most:
                part = next(parts, None)
                if part is None:
                    more = False
                else:
                    running.append(task.remote(shared, _part(*part)))
            if not running:
                break
            ready, running = ray.wait(running)
            for reference in ready:
                try:
                    found = ray.get(reference)
                except ray.exceptions.RayError as err:
                    message = f"Ray gave up on a shard after {RETRIES} more tries: {type(err).__name__}"
                    raise Unavailable(message, hint="the finished shards are kept with --resume DIR") from err
                if isinstance(found, SqueezeExportError):
                    raise found
                done += len(found.images)
                progress("comparing", done, runner.total)
                yield replace(found, answers={self._keys[key]: answers for key, answers in found.answers.items()})


class _WithoutRay(io.TextIOBase):
    """A stream that does not take what Ray's own threads print: a worker's death, among the lines of a result, whatever
    `log_to_driver` says (Ray 2.60).
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or does not."""
        return len(text) if threading.current_thread().name.startswith("ray_") else self._stream.write(text)

    def flush(self) -> None:
        """Flushes what was written."""
        self._stream.flush()


def is_ray(engine: str) -> bool:
    """Whether an engine's name means Ray."""
    return engine == "ray" or (engine.startswith("ray://") and len(engine) > len("ray://"))


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when it is imported
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns
    return require("ray", "ray")


def _part(start: int, stream: ImageStream) -> _Part:
    image_set = stream.image_set
    root, *files = (Path(os.path.abspath(path)) for path in (image_set.root, *image_set.files))
    there = replace(stream, image_set=replace(image_set, root=root, files=files))
    return _Part(start, root, tuple(map(str, files)), image_set.labels, seal(there, times=False))


def compare_part(work: _Work, part: _Part) -> Shard | SqueezeExportError:
    """Ray's task: compares a shard on this worker. An error is a result, so that only a worker's death is tried again."""
    try:
        runner = _opened(work)
        image_set = ImageSet(part.root, tuple(map(Path, part.files)), part.labels, "")
        stream = ImageStream(image_set, runner.graph.preprocess, batch=work.batch, workers=1, skip_broken=True, may_be_empty=True)
        if seal(stream, times=False) != part.seal:
            return BadInput(f"a worker of Ray's sees other images below `{part.root}`", hint=_SAME_FILES)
        return runner.run(part.start, stream)
    except SqueezeExportError as err:
        return err


_kept: dict[str, tuple[ExitStack, ShardRunner]] = {}
"""What a worker has open: one validation."""


def _opened(work: _Work) -> ShardRunner:
    if work.name in _kept:
        return _kept[work.name][1]
    for stack, _ in _kept.values():
        stack.close()
    _kept.clear()
    if work.version != __version__:
        raise Refused(f"a worker of Ray's has version {__version__} of this tool, not {work.version}", hint="install the same one")
    for entry in work.entries:
        _check_file(entry)
    with ExitStack() as stack:
        stack.enter_context(one_blas_thread())
        outcomes = stack.enter_context(opened(work.entries, work.options))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        sessions = {o.entry.key: (o.session, o.entry.artifact.ending) for o in outcomes if o.session is not None}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reference"
            path.write_bytes(work.graph)
            graph = read_graph(path)
        runner = ShardRunner(graph, sessions, pool, work.total, work.emulated_images, work.forbidden, failed=_raise)
        _kept[work.name] = stack.pop_all(), runner
    return runner


def _raise(key: object, err: SqueezeExportError) -> None:
    raise err


def _check_file(entry: Entry) -> None:
    path = entry.artifact.path
    with reading(path):
        found = content_sha256(artifact_content(path))
    if found != entry.artifact.sha256:
        raise BadInput(f"a worker of Ray's sees another file at `{path}`", hint=_SAME_FILES)
