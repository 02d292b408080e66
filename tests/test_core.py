"""What the shared types do by themselves: where operators ran, summed up; and how packages are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place

CONV, LAST = PlacedOperator("Conv a", True, 30), PlacedOperator("Conv b", True, 10)
CAST, POOL = PlacedOperator("Cast in", False), PlacedOperator("Mean out", False)


def placed(*operators: PlacedOperator, floats: FloatPart = "around the convolutions") -> Placement:
    return place(operators, floats=floats, source="a test")


def test_floats_before_the_first_and_behind_the_last_convolution_are_meant() -> None:
    placement = placed(CAST, CONV, LAST, POOL)
    assert (placement.operator_count, placement.integer_count, placement.device_count) == (4, 2, 4)
    assert (placement.integer_mac_share, placement.float_operators) == (1.0, ("Cast in", "Mean out"))
    assert (placement.elsewhere, placement.fallbacks) == ((), ())


def test_a_scheme_without_floats_means_none() -> None:
    assert placed(CAST, CONV, LAST, POOL, floats="none").fallbacks == ("Cast in in floating point", "Mean out in floating point")


def test_a_float_file_means_all() -> None:
    placement = placed(PlacedOperator("Conv a", False, 30), POOL, floats="all")
    assert (placement.integer_mac_share, placement.fallbacks) == (0.0, ())


@pytest.mark.parametrize("planted", [PlacedOperator("Sigmoid x", False), PlacedOperator("Conv x", False, 40)])
def test_a_float_operator_between_convolutions_has_fallen_back(planted: PlacedOperator) -> None:
    placement = placed(CONV, planted, LAST, POOL)
    assert placement.fallbacks == (f"{planted.name} in floating point",)
    assert placement.integer_mac_share == 40 / (40 + planted.macs)


def test_a_last_convolution_in_float_has_fallen_back() -> None:
    assert placed(CONV, PlacedOperator("Conv b", False, 10), POOL).fallbacks == ("Conv b in floating point",)


@pytest.mark.parametrize("floats", ["all", "around the convolutions", "none"])
def test_what_another_device_runs_has_fallen_back_in_any_file(floats: FloatPart) -> None:
    placement = placed(CONV, PlacedOperator("Mean out", True, 0, "cpu"), floats=floats)
    assert placement.fallbacks == placement.elsewhere == ("Mean out on cpu",)
    assert (placement.device_count, placement.integer_count) == (1, 1)


def test_integers_on_another_device_do_not_count() -> None:
    assert placed(CONV, PlacedOperator("Conv b", True, 10, "cpu")).integer_mac_share == 0.75


def test_the_files_own_count_of_multiplications_may_be_another() -> None:
    assert place([CONV], floats="none", source="", mac_count=60).integer_mac_share == 0.5


def test_records_without_a_convolution_excuse_nothing() -> None:
    """A kernel whose products are not counted must not hide the others."""
    assert placed(CAST).integer_mac_share == 0.0
    assert placed(PlacedOperator("DmlFusedConv a", False), CONV, POOL).fallbacks == ()
    assert placed(PlacedOperator("DmlFusedConv a", False), POOL).fallbacks == (
        "DmlFusedConv a in floating point",
        "Mean out in floating point",
    )
    assert placed().operator_count == 0


def test_onnx_runtime_is_imported_without_its_telemetry(tmp_path: Path) -> None:
    """It would leave a session's number in the temporary folder."""
    pytest.importorskip("onnxruntime")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    program = "from squeeze_export.core import require; require('onnxruntime', 'onnx')"
    subprocess.run([sys.executable, "-c", program], env={**environment, "TMPDIR": str(tmp_path)}, check=True, timeout=60)
    assert os.listdir(tmp_path) == []
