"""A report, whose figures a test changes one at a time."""

from __future__ import annotations

import dataclasses

import pytest

from tests.gate_reports import gate_report


@pytest.fixture
def report():
    """Two int8 files and their fp32 file."""
    return gate_report()


@pytest.fixture
def with_row(report):
    """The report with changes in its ONNX int8 row."""

    def change(**changes):
        rows = tuple(dataclasses.replace(row, **changes) if row.artifact == "net.int8.onnx" else row for row in report.measurements)
        return dataclasses.replace(report, measurements=rows)

    return change
