"""Reports and analyses in an output folder. What stands there of another network is kept under another name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_export.analyze.report import analysis_html, analysis_json
from squeeze_export.analyze.results import Analysis
from squeeze_export.documents import read_strict
from squeeze_export.errors import BadInput
from squeeze_export.files import write_files, write_text
from squeeze_export.pipeline.page import ANALYSIS, beside_of
from squeeze_export.report.html import write_html
from squeeze_export.report.markdown import to_markdown
from squeeze_export.results import SCHEMA, Report

REPORT = "report.json"
PAGE = "report.html"
TEXT = "report.md"


def write_report(report: Report, folder: Path, images: Path | None = None) -> Path | None:
    """Writes `report.json`, `report.html` and `report.md`.

    Args:
        report: of one network.
        folder: an existing folder.
        images: the folder that its images lie in, for small pictures of those that flipped.

    Returns:
        Where an older report of another network is kept that stood there, as `report-NAME-CHECKPOINT.json` with its page and text,
        or `report-other.json` if nobody can tell what it is of; None if there was none.

    Raises:
        BadInput: the folder cannot be written to.
    """
    kept = _set_aside(folder / REPORT, report.network)
    SCHEMA.write(report, folder / REPORT)
    write_html(report, folder / PAGE, beside_of(report, folder, images))
    write_text(folder / TEXT, to_markdown(report))
    return kept


def write_analysis(analysis: Analysis, folder: Path) -> tuple[tuple[Path, ...], Path | None]:
    """Writes `analysis.json` and `analysis.html`.

    Returns:
        The files, and where an older analysis of another network is kept that stood there, likewise.

    Raises:
        BadInput: the folder cannot be written to.
    """
    path = folder / ANALYSIS
    text = json.dumps(analysis_json(analysis), indent=1, allow_nan=False) + "\n"
    page = analysis_html(analysis)
    kept = _set_aside(path, analysis.network)
    files = {path: text.encode(), path.with_suffix(".html"): page.encode("utf-8", "backslashreplace")}
    write_files(files)
    return tuple(files), kept


def _set_aside(path: Path, network: Mapping[str, Any]) -> Path | None:
    """Renames a JSON document of another network, and the page and the text beside it."""
    if not path.exists():
        return None
    found = _network_of(path)
    if _same(found, network):
        return None
    kept = path.with_name(f"{_name_of(path.stem, found)}.json") if found else _free(path)
    try:
        os.replace(path, kept)
        for suffix in (".html", ".md"):
            if path.with_suffix(suffix).exists():
                os.replace(path.with_suffix(suffix), kept.with_suffix(suffix))
    except OSError as err:
        raise BadInput(f"cannot rename `{path}`: {err.strerror}", hint="choose another folder with --out") from err
    return kept


def _network_of(path: Path) -> Mapping[str, Any]:
    """What a document says about its network; nothing where nobody can tell."""
    try:
        document = read_strict(path, "a report")
    except BadInput:  # another tool's, or damaged
        return {}
    found = document.get("network") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two reports are of one checkpoint, or of one name where a table alone was known of one of them."""
    key = "checkpoint_sha256" if "checkpoint_sha256" in first and "checkpoint_sha256" in second else "name"
    return first.get(key) == second.get(key)


def _name_of(stem: str, network: Mapping[str, Any]) -> str:
    """`report-squeezenet1_1-1a2b3c4d`; text of a stranger's report is kept only as far as it is a plain name."""
    parts = [str(network.get("name", "")), str(network.get("checkpoint_sha256", ""))[:8]]
    return "-".join([stem, *(part for part in parts if re.fullmatch(r"\w[\w.-]{0,99}", part, re.ASCII))])


def _free(path: Path) -> Path:
    """`report-other.json`, or with a number if that is taken."""
    names = (path.with_name(f"{path.stem}-other{number or ''}.json") for number in range(1000))
    free = next((name for name in names if not name.exists()), None)
    if free is None:
        raise BadInput(f"`{path.parent}` is full of reports that nobody can read", hint="choose another folder with --out")
    return free
