"""A badge, as the endpoint that shields.io draws it from: https://shields.io/badges/endpoint-badge."""

from __future__ import annotations

import json

from squeeze_export.report.ci.judged import Judged

_COLORS = {"passed": "brightgreen", "failed": "red", "undecided": "yellow"}


def badge(judged: Judged) -> str:
    """`gate | passed`, or how many checks failed or are undecided."""
    state = judged.result.state
    count = sum(check.state == state for check in judged.result.checks)
    message = state if state == "passed" else f"{count} {state}"
    return json.dumps({"schemaVersion": 1, "label": "gate", "message": message, "color": _COLORS[state]}, indent=1) + "\n"
