"""A gate's result, written where CI systems look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from squeeze_export.errors import BadInput
from squeeze_export.files import make_folder, write_files
from squeeze_export.gate.results import Against, GateResult
from squeeze_export.report.ci import FORMS, Judged
from squeeze_export.results import SCHEMA as REPORT

__all__ = ["FORMS", "Judged", "judged", "write_forms"]


def judged(
    result: GateResult,
    report: Path,
    *,
    undecided: Literal["pass", "fail"] | None = None,
    settings: Path | None = None,
    baseline: Path | None = None,
    key: str = "",
) -> Judged:
    """What CI is told of a result.

    Args:
        result: of `gate`.
        report: the `report.json` that it judged.
        undecided: what undecided checks were told to count as.
        settings: the file that sets the bounds; annotations name it where it lies in the current folder.
        baseline: the baseline; likewise.
        key: tells jobs of one network apart.

    Raises:
        BadInput: the report cannot be read.
    """
    places: dict[Against, Path | None] = {"bound": settings, "baseline": baseline}
    files = {against: name for against, path in places.items() if path is not None and (name := _below_here(path))}
    return Judged(result, REPORT.read(report), undecided, files, key)


def write_forms(told: Judged, folder: Path | None = None, files: Mapping[str, Path] | None = None) -> None:
    """Writes forms of the result: JUnit XML, Markdown and others.

    Args:
        told: of `judged`.
        folder: for all forms, under their names in `FORMS`; it is made if need be.
        files: the name of a form in `FORMS` -> the file to write it to.

    Raises:
        BadInput: there is no such form, or a file cannot be written; then none is.
    """
    places = [(path, name) for name, path in (files or {}).items()]
    if folder is not None:
        make_folder(folder)
        places += [(folder / name, name) for name in FORMS]
    unknown = [name for _, name in places if name not in FORMS]
    if unknown:
        raise BadInput(f"`{unknown[0]}` is no form of a gate's result", hint=f"one of: {', '.join(FORMS)}")
    if places:
        write_files({path: FORMS[name](told).encode("utf-8", "backslashreplace") for path, name in places})


def _below_here(path: Path) -> str:
    """The path from the current folder, with slashes; empty if it is not below it, or not there."""
    here, there = Path.cwd().resolve(), path.resolve()
    return there.relative_to(here).as_posix() if there.is_file() and there.is_relative_to(here) else ""
