"""A validation of many images: who compares the shards, what is kept of them, and what is written of each image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from squeeze_export.core import Progress
from squeeze_export.errors import BadInput
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.table import graph_bytes
from squeeze_export.images.stream import ImageStream
from squeeze_export.measure.host import tool_versions
from squeeze_export.pipeline.cluster import Cluster, is_ray
from squeeze_export.pipeline.journal import SCHEMA, Journal, JournalFile, Validation
from squeeze_export.pipeline.per_image import check_per_image
from squeeze_export.pipeline.sessions import Outcome, RunOptions
from squeeze_export.pipeline.shards import SHARD_IMAGES, Shard, ShardRunner, cpu_kind
from squeeze_export.pipeline.summary import TOOLS

LOCAL = "local"


@dataclass(frozen=True)
class Scale:
    """How a validation is done where there are many images. None of it changes a figure.

    Attributes:
        engine: `local`, `ray` for processes that Ray starts on this machine (or in the cluster that RAY_ADDRESS names), or
            `ray://HOST:PORT` for a cluster.
        resume: a folder that keeps finished shards: the same validation goes on with them after it was stopped.
        per_image: a `.jsonl` or `.parquet` file for the results of each image.
        shard_images: images a shard: what is lost when a process is killed, and a task of Ray's.
    """

    engine: str = LOCAL
    resume: Path | None = None
    per_image: Path | None = None
    shard_images: int = SHARD_IMAGES

    def check(self, options: RunOptions) -> None:
        """Refuses, before any work is done, what is known to fail.

        Raises:
            BadInput: no such engine, or one that does not go with the other options; a file that cannot be written.
            NotInstalled: Ray or pyarrow is needed and absent.
        """
        if self.shard_images < 1:
            raise BadInput(f"--shard-images `{self.shard_images}` is below 1")
        if self.engine != LOCAL and not is_ray(self.engine):
            raise BadInput(f"there is no engine `{self.engine}`", hint="--engine local, ray, or ray://HOST:PORT")
        if self.engine != LOCAL:
            Cluster.check(options)
        if self.per_image is not None:
            check_per_image(self.per_image)


def compared_shards(
    runner: ShardRunner,
    outcomes: Sequence[Outcome],
    stream: ImageStream,
    scale: Scale,
    options: RunOptions,
    progress: Progress,
) -> Iterator[Shard]:
    """Every shard of a set, those kept from before among them, in whatever order they are done.

    Args:
        runner: compares a shard in this process.
        outcomes: with their sessions, which are the runner's.
        stream: the set.
        scale: how.
        options: how the files are run.
        progress: told of the images.

    Raises:
        BadInput: the folder of finished shards holds another validation; and what `ShardRunner.run` raises.
        Unavailable: Ray cannot be reached, or gives up on a shard.
    """
    journal = None
    if scale.resume is not None:
        keys = [outcome.entry.key for outcome in outcomes]
        journal = Journal(scale.resume, _validation(runner, outcomes, len(stream.image_set.files), scale), keys)
    kept: list[Shard] = []

    def missing() -> Iterator[tuple[int, ImageStream]]:
        for start, part in stream.shards(scale.shard_images):
            shard = journal.read(start, part) if journal is not None else None
            if shard is None:
                yield start, part
            else:
                kept.append(shard)

    def fresh() -> Iterator[Shard]:
        if scale.engine == LOCAL:
            yield from (runner.run(start, part, progress) for start, part in missing())
            return
        entries = [outcome.entry for outcome in outcomes]
        with Cluster(scale.engine, runner, entries, options) as cluster:
            yield from cluster.run(missing(), stream, progress)

    for shard in fresh():
        if journal is not None:
            journal.write(shard)
        yield shard
        while kept:
            yield kept.pop()
    yield from kept


def _validation(runner: ShardRunner, outcomes: Sequence[Outcome], image_count: int, scale: Scale) -> Validation:
    sessions = [(outcome.entry, outcome.session) for outcome in outcomes if outcome.session is not None]
    return Validation(
        SCHEMA.version,
        graph_sha256(runner.graph),
        tuple(JournalFile(e.artifact.sha256, e.runtime, s.device, s.threads, s.kernels) for e, s in sessions),
        image_count,
        scale.shard_images,
        runner.emulated_images,
        hashlib.sha256("".join(sorted(runner.forbidden)).encode()).hexdigest(),
        tool_versions(TOOLS),
        cpu_kind(),
    )


def graph_sha256(graph: Graph) -> str:
    """Of the graph as a file."""
    return hashlib.sha256(graph_bytes(graph)).hexdigest()
