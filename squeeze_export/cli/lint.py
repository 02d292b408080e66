"""`squeeze-export lint FILE... --for CHIP`: will the chip run a file, and what to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import print_json, say
from squeeze_export.cli.options import FILES, Choice, Command, option
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.errors import EXIT_DONE, Refused
from squeeze_export.lint import Finding, Severity
from squeeze_export.pipeline import lint_file
from squeeze_export.registry import RULEBOOKS

CHIP = option("--for", "chip", type=Choice(list(RULEBOOKS)), required=True, help="The chip or compiler whose rules to apply.")


@click.command("lint", cls=Command, params=[FILES, CHIP, *OUTPUT])
def command(files: tuple[Path, ...], chip: str, **values: Any) -> int:
    """Check a file's operators against a chip's documented rules. Exit code 4 if one of them will fall back, or may
    give wrong numbers.

    \b
    squeeze-export lint squeezenet1_1.int8-npu.tflite --for ethosu
    """
    found = {str(file): lint_file(file, chip) for file in files}
    if values["as_json"]:
        print_json({file: [asdict(finding) for finding in findings] for file, findings in found.items()})
    else:
        for file, findings in found.items():
            _show(file, chip, findings)
    broken = any(finding.severity != "note" for findings in found.values() for finding in findings)
    return Refused.exit_code if broken else EXIT_DONE


def _show(file: str, chip: str, findings: Sequence[Finding]) -> None:
    counts = Counter(finding.severity for finding in findings)
    words: dict[Severity, str] = {"fall-back": "will fall back", "wrong": "may give wrong numbers"}
    told = [f"{counts[kind]} operator{'s'[: counts[kind] > 1]} {text}" for kind, text in words.items() if counts[kind]]
    verdict = ", ".join(told) or ("no operator will fall back" if findings else "no operator breaks a rule")
    say(f"{file} for {chip}: {verdict}")
    for finding in findings:
        say(f"  {finding.severity:<9}  {finding.operator}: {finding.problem}")
        say(f"  {'':<9}  change: {finding.change}")
    for source in dict.fromkeys(finding.source for finding in findings):
        say(f"  {'':<9}  rule: {source}")
