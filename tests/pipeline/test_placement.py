"""What `--require-full-placement` turns away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from squeeze_export.core import PlacedOperator, place
from squeeze_export.errors import GateFailed, GateUndecided
from squeeze_export.pipeline import check_full_placement
from squeeze_export.results import Measurement


def row(*operators: PlacedOperator, **changes: object) -> Measurement:
    placement = place(operators, floats="around the convolutions", source="a test")
    return replace(Measurement("onnx", "int8", "net.onnx", "", 1, "onnxruntime", device="cpu", placement=placement), **changes)


CONVS = [PlacedOperator(f"Conv {index}", True, 1) for index in range(8)]


def test_integers_on_the_device_pass() -> None:
    check_full_placement([row(*CONVS), row(*CONVS, PlacedOperator("Mean", False))])


def test_a_fall_back_is_named() -> None:
    with pytest.raises(GateFailed) as caught:
        check_full_placement([row(*CONVS), row(*CONVS[:4], PlacedOperator("Sigmoid s", False), *CONVS[4:])])
    assert caught.value.exit_code == 5
    assert "1 of 9 operators fell back: `Sigmoid s in floating point`" in caught.value.message


def test_many_are_counted() -> None:
    with pytest.raises(GateFailed, match=r"8 of 8 operators fell back: .* and 4 more"):
        check_full_placement([row(*(replace(conv, elsewhere="cpu") for conv in CONVS))])


@pytest.mark.parametrize("rows", [[], [row(*CONVS, status="failed")]])
def test_nothing_that_ran_decides_nothing(rows: list[Measurement]) -> None:
    with pytest.raises(GateUndecided):
        check_full_placement(rows)


def test_a_known_fall_back_counts_whatever_else_is_unknown() -> None:
    fallen = row(*CONVS[:4], PlacedOperator("Sigmoid s", False), *CONVS[4:])
    for rows in ([row(placement=None), fallen], [fallen, row(placement=None)]):
        with pytest.raises(GateFailed):
            check_full_placement(rows)


def test_a_runtime_that_does_not_tell_decides_nothing() -> None:
    with pytest.raises(GateUndecided, match="did not run, or its runtime does not tell"):
        check_full_placement([row(placement=None)])
