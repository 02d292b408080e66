"""What a file consists of: one reader for each format, and one audit for all.

A format is one module or folder that satisfies `Format`, and one line in `registry.FORMATS`. It reads files of any tool, within
size limits, into `contents.Contents`. Its `audit.Policy` says which of its operators compute in integers. It shares no code with
the target that writes the format, and needs no runtime.
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
        POLICY: tells the audit what the format's operators mean.
    """

    NAME: str
    SUFFIX: str
    POLICY: Policy

    @abstractmethod
    def read(self, path: Path) -> Contents:
        """Everything in the file.

        Raises:
            BadInput: the file cannot be read, is too large, or is not a valid file of this format.
            Unavailable: the package that reads it is not installed.
        """

    def describe(self, path: Path) -> tuple[TensorSpec, TensorSpec]:
        """Input and output of an image classifier's file.

        Raises:
            BadInput: as for `read`, or the file is no image classifier.
            Unavailable: the package that reads it is not installed.
        """
        return self.read(path).classifier(path)

    def listing(self, path: Path) -> Contents:
        """The file's operators as a runtime sees them, for `lint`: each tensor has the integer dtype that carries it.

        Raises:
            BadInput, Unavailable: as for `read`.
        """
        return self.read(path)


def format_named(name: str) -> Format:
    """Looks a format up.

    Raises:
        BadInput: there is no such format.
        Refused: another distribution's module is not a format.
    """
    return cast(Format, entry_named(name, FORMATS, "format", Format))


def audited(name: str, path: Path) -> Audit:
    """Audits a file of a format, written by any tool, from the file alone.

    Raises:
        BadInput: there is no such format, or the file is not of this format.
        Unavailable: the package that reads the format is not installed.
    """
    module = format_named(name)
    return audit(module.read(path), module.POLICY)
