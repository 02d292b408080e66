"""What all sessions do with a batch: check, split, fill up, cut. A runtime's own tests need not ask again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import ByteArray, FloatArray, Session
from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.registry import RUNTIMES
from squeeze_export.runtimes import runtime_named
from squeeze_export.runtimes.session import BatchSession, check_threads, read_file

SIDES = (2, 3, 3)


class Means(BatchSession):
    """Gives each image's mean of each channel, out of memory that it uses again; remembers what it was given."""

    runtime, threads, kernels = "means", 1, "numpy"

    def __init__(self, **sizes: Any) -> None:
        super().__init__(SIDES, **sizes)
        self.given: list[int] = []
        self.black: list[int] = []
        self.freed = 0
        self._memory = np.zeros((100, 3), np.float64)

    def run_piece(self, images: ByteArray) -> FloatArray:
        self.given.append(len(images))
        self.black.append(sum(not image.any() for image in images))
        self._memory[: len(images)] = images.mean(axis=(1, 2))
        return self._memory[: len(images)].astype(np.float16) if self.runtime == "halves" else self._memory[: len(images)]

    def free(self) -> None:
        self.freed += 1


def pixels(count: int) -> ByteArray:
    return np.random.default_rng(count).integers(1, 256, (count, *SIDES), np.uint8)


@pytest.mark.parametrize(
    ("sizes", "count", "given", "black"),
    [
        ({"least": 4, "most": 4}, 1, [4], [3]),
        ({"least": 4, "most": 4}, 4, [4], [0]),
        ({"least": 4, "most": 4}, 9, [4, 4, 4], [0, 0, 3]),
        ({}, 9, [9], [0]),
        ({"most": 4}, 9, [4, 4, 1], [0, 0, 0]),
        ({"most": 4}, 3, [3], [0]),
        ({"least": 2, "most": 4}, 1, [2], [1]),
        ({"least": 2, "most": 4}, 9, [4, 4, 2], [0, 0, 1]),
    ],
)
def test_a_batch_is_split_filled_up_and_cut(sizes: dict[str, int], count: int, given: list[int], black: list[int]) -> None:
    session, batch = Means(**sizes), pixels(count)
    checked: Session = session
    found = checked.infer(batch)
    assert (session.given, session.black) == (given, black)
    np.testing.assert_allclose(found, batch.mean(axis=(1, 2)), rtol=1e-6)


def test_pieces_of_a_wrong_size_are_noticed() -> None:
    """Negative control of the test above: a session that gives its pieces back in another order, or not all of them."""

    class Wrong(Means):
        def run_piece(self, images: ByteArray) -> FloatArray:
            return super().run_piece(images)[::-1]

    batch = pixels(9)
    assert not np.allclose(Wrong(least=4, most=4).infer(batch), batch.mean(axis=(1, 2)))


def test_the_result_is_a_fresh_float32_array() -> None:
    for name in ("means", "halves"):
        session = Means(most=4)
        session.runtime = name
        first = session.infer(pixels(1))
        kept = first.copy()
        second = session.infer(pixels(2))
        assert first.dtype == second.dtype == np.float32
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, *SIDES), np.float32),
        np.zeros((1, *SIDES), np.int8),
        np.zeros(SIDES, np.uint8),
        np.zeros((1, 3, 2, 3), np.uint8),
        np.zeros((0, *SIDES), np.uint8),
    ],
)
def test_another_batch_is_refused(batch: Any) -> None:
    session = Means(least=4, most=4)
    with pytest.raises(ValueError, match=r"a batch of .*, the file takes uint8 \('N', 2, 3, 3\)"):
        session.infer(batch)
    assert session.given == []


def test_a_closed_session_is_refused() -> None:
    session = Means()
    session.close()
    session.close()
    assert session.freed == 1
    with pytest.raises(ValueError, match="closed"):
        session.infer(pixels(1))


def test_what_a_session_says_of_itself_unless_its_runtime_says_more() -> None:
    session: Session = Means()
    assert (session.placement, session.clock, session.gives_logits) == (None, None, True)
    assert (session.device, session.evidence, dict(session.facts)) == ("cpu", "measured", {})


def test_threads_and_files_are_checked(tmp_path: Path) -> None:
    check_threads(1)
    for count in (0, -1):
        with pytest.raises(BadInput, match=f"`{count}` threads"):
            check_threads(count)
    (tmp_path / "net").write_bytes(b"net")
    assert read_file(tmp_path / "net") == b"net"
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        read_file(tmp_path / "none")


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_refuses_a_device_that_there_is_none_of(name: str) -> None:
    with pytest.raises(Unavailable):
        runtime_named(name).check_device("abacus")
