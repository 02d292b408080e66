"""The one place that knows what a file consists of: a reader for each format, and one audit for all.

A format is one module or folder that satisfies `Format`, and one line in `registry.FORMATS`. It reads files, ours and strangers',
within bounds, into `contents.Contents`, and says in an `audit.Policy`, with tables of operator kinds and a few small functions,
which of its operators compute in integers. It shares no code with what writes the format, and needs no runtime for it.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Protocol, cast

from squeeze_export.core import Audit, TensorSpec
from squeeze_export.formats.audit import Policy, audit
from squeeze_export.formats.contents import Contents
from squeeze_export.registry import FORMATS, entry_named


class Format(Protocol):
    """What a format's module offers. Frameworks are imported inside the functions.

    Attributes:
        NAME: the registry's key.
        SUFFIX: of the file or folder, with its dot.
        POLICY: how the audit is to understand the format's operators.
    """

    NAME: str
    SUFFIX: str
    POLICY: Policy

    @abstractmethod
    def read(self, path: Path) -> Contents:
        """All that the file holds.

        Raises:
            BadInput: it cannot be read, is too large, or is no sound file of this format.
            Unavailable: the package that reads it is not installed.
        """

    def describe(self, path: Path) -> tuple[TensorSpec, TensorSpec]:
        """Input and output of an image classifier's file.

        Raises:
            BadInput: as `read`, or the file is no such classifier.
            Unavailable: the package that reads it is not installed.
        """
        return self.read(path).classifier(path)

    def listing(self, path: Path) -> Contents:
        """The file's operators as `lint` needs them: as a runtime has them, on the integers that carry their tensors.

        Raises:
            BadInput, Unavailable: as `read`.
        """
        return self.read(path)


def format_named(name: str) -> Format:
    """Looks a format up.

    Raises:
        BadInput: there is no such format.
        Refused: another distribution's module is none.
    """
    return cast(Format, entry_named(name, FORMATS, "format", Format))


def audited(name: str, path: Path) -> Audit:
    """What is inside a file of a format, ours or another tool's, read from the file alone.

    Raises:
        BadInput: there is no such format, or the file is not of it.
        Unavailable: the package that reads the format is not installed.
    """
    module = format_named(name)
    return audit(module.read(path), module.POLICY)
