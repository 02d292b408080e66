"""The report's files in an output folder. A report of another network that stands there is kept under another name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_export.errors import BadInput
from squeeze_export.report.html import write_html
from squeeze_export.results import SCHEMA, Report

REPORT = "report.json"
PAGE = "report.html"


def write_report(report: Report, folder: Path) -> Path | None:
    """Writes `report.json` and `report.html`.

    Args:
        report: of one network.
        folder: an existing folder.

    Returns:
        Where an older report of another network is kept that stood there, as `report-NAME-CHECKPOINT.json` with its page beside it,
        or `report-other.json` if nobody can tell what it is of; None if there was none.

    Raises:
        BadInput: the folder cannot be written to.
    """
    kept = _set_aside(folder, report.network)
    SCHEMA.write(report, folder / REPORT)
    write_html(report, folder / PAGE)
    return kept


def _set_aside(folder: Path, network: Mapping[str, Any]) -> Path | None:
    """Renames a report of another network, and its page."""
    path = folder / REPORT
    if not path.exists():
        return None
    try:
        found = SCHEMA.read(path).network
    except BadInput:  # another tool's, or damaged
        found = {}
    if _same(found, network):
        return None
    kept = folder / f"{_name_of(found)}.json" if found else _free(folder)
    try:
        os.replace(path, kept)
        if (folder / PAGE).exists():
            os.replace(folder / PAGE, kept.with_suffix(".html"))
    except OSError as err:
        raise BadInput(f"cannot rename `{path}`: {err.strerror}", hint="choose another folder with --out") from err
    return kept


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two reports are of one checkpoint, or of one name where a table alone was known of one of them."""
    key = "checkpoint_sha256" if "checkpoint_sha256" in first and "checkpoint_sha256" in second else "name"
    return first.get(key) == second.get(key)


def _name_of(network: Mapping[str, Any]) -> str:
    """`report-squeezenet1_1-1a2b3c4d`; text of a stranger's report is kept only as far as it is a plain name."""
    parts = [str(network.get("name", "")), str(network.get("checkpoint_sha256", ""))[:8]]
    return "-".join(["report", *(part for part in parts if re.fullmatch(r"\w[\w.-]{0,99}", part, re.ASCII))])


def _free(folder: Path) -> Path:
    """`report-other.json`, or with a number if that is taken."""
    names = (f"report-other{number or ''}.json" for number in range(1000))
    free = next((folder / name for name in names if not (folder / name).exists()), None)
    if free is None:
        raise BadInput(f"`{folder}` is full of reports that nobody can read", hint="choose another folder with --out")
    return free
