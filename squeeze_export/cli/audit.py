"""`squeeze-export audit FILE...`: what is inside a file, ours or another tool's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import print_json, say
from squeeze_export.cli.options import FILES, Command
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.core import Audit
from squeeze_export.errors import EXIT_DONE, GateUndecided, Refused
from squeeze_export.pipeline import audit_file


@click.command("audit", cls=Command, params=[FILES, *OUTPUT])
def command(files: tuple[Path, ...], **values: Any) -> int:
    """List the float operators and tensors in exported files. Exit code 4 if a file is not an integer network, 6 if that cannot be
    told.

    \b
    squeeze-export audit squeezenet1_1.int8.tflite other-tool.onnx
    """
    found = {str(file): audit_file(file) for file in files}
    code = EXIT_DONE
    if any(audit.untold for audit in found.values()):
        code = GateUndecided.exit_code
    if any(audit.violations for audit in found.values()):
        code = Refused.exit_code
    if values["as_json"]:
        print_json({file: asdict(audit) for file, audit in found.items()})
        return code
    for file, audit in found.items():
        say(f"{file}: {_verdict(audit)}")
        say("  operators        " + ", ".join(f"{count} {kind}" for kind, count in sorted(audit.operators.items())))
        say("  constants        " + ", ".join(f"{size:,} bytes {kind}" for kind, size in sorted(audit.weight_bytes.items())))
        for title, lines in (
            *((("kept in float", audit.kept_float),) if audit.kept_float else ()),
            ("float operators", audit.float_operators),
            ("float tensors", audit.float_tensors),
            ("violations", audit.violations),
            *((("cannot be told", audit.untold),) if audit.untold else ()),
        ):
            say(f"  {title:<16} {lines[0] if lines else 'none'}")
            for line in lines[1:]:
                say(f"  {'':<16} {line}")
    return code


def _verdict(audit: Audit) -> str:
    if audit.violations:
        return "not an integer network"
    if audit.untold:
        return "cannot be told whether it is an integer network"
    count = len(audit.kept_float)
    return f"integer network, {count} layer{'s' if count > 1 else ''} kept in float on request" if count else "integer network"
