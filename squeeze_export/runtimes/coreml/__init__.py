"""Core ML packages, run: by Core ML itself on macOS (`native`), and by an evaluator in numpy on any machine (`evaluator`)."""

from __future__ import annotations

from pathlib import Path

from squeeze_export.errors import Refused
from squeeze_export.formats.coreml.classifier import Classifier, read_classifier


def open_package(path: Path) -> Classifier:
    """Reads the package of one image classifier for a session.

    Raises:
        BadInput: the folder cannot be read, is too large, or holds links.
        Refused: it is no such package, or damaged.
    """
    try:
        return read_classifier(path)
    except ValueError as err:
        raise Refused(f"`{path}` is no Core ML package that can be read: {err}", hint="export it again") from err
