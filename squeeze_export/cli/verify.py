"""`squeeze-export verify FILE|DIR`: is a file still what was exported?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import print_json, say, shown_progress
from squeeze_export.cli.options import FILE, Command
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.documents import to_json
from squeeze_export.errors import EXIT_DONE, GateFailed, Unavailable
from squeeze_export.pipeline.verifying import Verified, verify


@click.command("verify", cls=Command, params=[click.Argument(["path"], type=FILE, metavar="FILE|DIR"), *OUTPUT])
def command(path: Path, **values: Any) -> int:
    """Compare a file with its sidecar: every byte, its metadata, the proof of INT8, and its answers to golden inputs. Needs only
    the file's runtime. Exit code 5 if something differs, 3 if something could not be compared here.

    \b
    squeeze-export verify squeeze-export-out/squeezenet1_1.int8.tflite
    squeeze-export verify squeeze-export-out/                              every file and table in a folder
    """
    with shown_progress() as progress:
        found = verify(path, progress)
    if values["as_json"]:
        print_json(to_json(found, "verified"))
    else:
        for one in found:
            _print(one)
    if any(one.differences for one in found):
        return GateFailed.exit_code
    return Unavailable.exit_code if any(one.unchecked for one in found) else EXIT_DONE


def _print(one: Verified) -> None:
    state = "differs" if one.differences else "not all checked" if one.unchecked else "verified"
    say(f"{one.file}: {state}")
    for title, lines in (
        ("differs", one.differences),
        ("not checked", one.unchecked),
        ("lacks", one.lacks),
        ("checked", (", ".join(one.checked),) if one.checked else ()),
    ):
        for line in lines:
            say(f"  {title:<12} {line}")
