"""Many files as little memory: a `Path` takes about half a kilobyte, a name in here its length."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload


class FileList(Sequence[Path]):
    """Files as a sequence of paths, each made as it is asked for. Equal to any sequence of the same paths.

    Args:
        files: in their order.
    """

    def __init__(self, files: Iterable[Path] = ()) -> None:
        names, ends = bytearray(), array("q", [0])
        for file in files:
            names += os.fsencode(file)
            ends.append(len(names))
        self._names, self._ends = bytes(names), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> FileList: ...
    def __getitem__(self, index: int | slice) -> Path | FileList:
        if isinstance(index, slice):
            return FileList(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]
        return Path(os.fsdecode(self._names[self._ends[place] : self._ends[place + 1]]))

    def __iter__(self) -> Iterator[Path]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self._names)

    def __repr__(self) -> str:
        return f"FileList({list(self)!r})"
