"""Results image by image, as JSON lines or Parquet: what each was answered, by the reference and by each file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from squeeze_export.core import require
from squeeze_export.errors import BadInput
from squeeze_export.files import drafted
from squeeze_export.measure.accuracy import Records
from squeeze_export.pipeline.sessions import Key
from squeeze_export.pipeline.shards import Findings
from squeeze_export.results import NOT_RUN

_ROWS = 1000
"""Rows written at once."""


def check_per_image(path: Path) -> None:
    """Refuses, before any work is done, what `write_per_image` cannot write.

    Raises:
        BadInput: the file name ends in something else, or its folder is not there.
        NotInstalled: Parquet without pyarrow.
    """
    if path.suffix not in _WRITERS:
        raise BadInput(f"--per-image `{path}` ends in neither `.jsonl` nor `.parquet`", hint="--per-image images.jsonl")
    if not path.parent.is_dir() or path.is_dir():
        raise BadInput(f"--per-image `{path}` cannot be written", hint="name a file in a folder that is there")
    if path.suffix == ".parquet":
        require("pyarrow", "parquet")


def write_per_image(path: Path, findings: Findings, names: Mapping[Key, tuple[str, str]]) -> None:
    """Writes a row for each image that counts, in the order of the set.

    `image` is its path below the folder or manifest, `sha256` that of its file, `label` its class index or null. `reference` and
    each of `files` have `top1`, the class with the highest logit; `label_rank`, how many classes stand before the label, or null;
    and `margin`, the highest logit less the next one. Each of `files` also tells `file` and `runtime`, and the image's part of the
    SQNR: `signal` and `noise`, the sums of the squared reference logits and of the squared differences. An emulated file has
    answers of a part of the images only.

    Args:
        path: ending in `.jsonl` or `.parquet`.
        findings: closed.
        names: file and runtime of each session.

    Raises:
        BadInput: it cannot be written.
        NotInstalled: Parquet without pyarrow.
    """
    with drafted(path) as draft:
        _WRITERS[path.suffix](draft, _rows(findings, names))


def _rows(findings: Findings, names: Mapping[Key, tuple[str, str]]) -> Iterator[dict[str, Any]]:
    for place in findings.places.tolist():
        image = findings.images[place]
        files = []
        for key, answers in findings.answers.items():
            answer = answers[place]
            if answer["top1"] != NOT_RUN:
                file, runtime = names[key]
                sums = {name: float(answer[name]) for name in ("signal", "noise")}
                files.append({"file": file, "runtime": runtime, **_answer(answer), **sums})
        yield {
            "image": findings.file(place),
            "sha256": image["sha256"].tobytes().hex(),
            "label": int(image["label"]) if image["label"] >= 0 else None,
            "reference": _answer(findings.reference[place]),
            "files": files,
        }


def _answer(record: Records) -> dict[str, Any]:
    rank = int(record["label_rank"])
    return {"top1": int(record["top1"]), "label_rank": rank if rank >= 0 else None, "margin": float(record["margin"])}


def _write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, allow_nan=False) + "\n")


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    pa, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    answer = [("top1", pa.int32()), ("label_rank", pa.int32()), ("margin", pa.float32())]
    file = [("file", pa.string()), ("runtime", pa.string()), *answer, ("signal", pa.float64()), ("noise", pa.float64())]
    columns = [("image", pa.string()), ("sha256", pa.string()), ("label", pa.int32())]
    schema = pa.schema([*columns, ("reference", pa.struct(answer)), ("files", pa.list_(pa.struct(file)))])
    with parquet.ParquetWriter(path, schema) as writer:
        part: list[dict[str, Any]] = []
        for row in rows:
            part.append(row)
            if len(part) == _ROWS:
                writer.write_table(pa.Table.from_pylist(part, schema))
                part = []
        writer.write_table(pa.Table.from_pylist(part, schema))


_WRITERS: Mapping[str, Callable[[Path, Iterator[dict[str, Any]]], None]] = {".jsonl": _write_lines, ".parquet": _write_parquet}
