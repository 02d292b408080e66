"""Writes `docs/report.schema.json`: the shape of `report.json`, for tools that read it.

python -m tools.report_schema
"""

from __future__ import annotations

import sys
from pathlib import Path

from squeeze_export.documents import json_schema, strict_text
from squeeze_export.files import write_text
from squeeze_export.results import SCHEMA

FILE = Path(__file__).parents[1] / "docs" / "report.schema.json"


def text() -> str:
    """The file's content."""
    return strict_text(json_schema(SCHEMA))


def main() -> int:
    """Writes the file."""
    write_text(FILE, text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
