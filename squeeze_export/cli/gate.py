"""`squeeze-export gate REPORT.json`: verdicts that a CI run can end with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli.console import note, print_json, say, stdout_console
from squeeze_export.cli.options import FILE, Choice, Command, Option, option
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.documents import to_json
from squeeze_export.errors import EXIT_DONE, GateFailed, GateUndecided
from squeeze_export.pipeline.gating import WORDS, GateResult, gate, given_bounds, read_bound, write_result
from squeeze_export.report.tables import Column, Table
from squeeze_export.report.terminal import print_rows
from squeeze_export.report.wording import one_line


class BoundValue(click.ParamType[float]):
    """The value of a bound: a number, with or without its unit."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.name = WORDS[word].unit.upper() if WORDS[word].unit not in ("%", "x") else "PCT" if WORDS[word].unit == "%" else "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads the text, or the settings file's number."""
        return read_bound(self.word, value)


def _bound_option(word: str) -> Option:
    return option(f"--{word}", type=BoundValue(word), help=WORDS[word].help)


BOUNDS = tuple(_bound_option(word) for word in WORDS)
UNDECIDED = option(
    "--undecided", type=Choice(["pass", "fail"]), help="Exit code 0 or 5 where the gate cannot decide, instead of 6."
)
OUT = option("--out", group="Output", type=FILE, metavar="DIR", help="Folder of gate.json; by default beside the report.")


@click.command("gate", cls=Command, params=[click.Argument(["report"], type=FILE), UNDECIDED, *BOUNDS, OUT, *OUTPUT])
def command(report: Path, **values: Any) -> int:
    """Hold a report to bounds. Exit code 5 if one is broken, 6 if that cannot be decided.

    \b
    squeeze-export gate squeeze-export-out/report.json --max-top1-drop 1 --max-size 1.3MB
    """
    result = gate(report, given_bounds(values))
    path = write_result(result, values["out"] or report.parent)
    if values["as_json"]:
        print_json(to_json(result, "gate result"))
    else:
        _print(result)
    note(f"wrote {path}")
    return _exit_code(result, values["undecided"])


def _exit_code(result: GateResult, undecided: str | None) -> int:
    if result.state == "failed" or (result.state == "undecided" and undecided == "fail"):
        return GateFailed.exit_code
    return GateUndecided.exit_code if result.state == "undecided" and undecided is None else EXIT_DONE


def _print(result: GateResult) -> None:
    """One row for each check that someone should look at; the others, which `gate.json` has in full, by what they are about."""
    rows: list[tuple[str, str, str, str]] = []
    others: dict[tuple[str, str, str], int] = {}
    for check in result.checks:
        if check.state in ("failed", "undecided") or check.cleared:
            needs = f"; {check.needs} would decide" if check.needs else ""
            state = "cleared" if check.cleared else check.state
            rows.append((state, check.name, one_line(check.row) or "-", one_line(f"{check.message}{needs}")))
        else:
            kind = (check.state, check.name, one_line(check.message) if check.state == "skipped" else "")
            others[kind] = others.get(kind, 0) + 1
    rows += [
        (state, name, f"{count} {'checks' if count > 1 else 'check'}", message) for (state, name, message), count in others.items()
    ]
    columns = tuple(Column(name, "text") for name in ("state", "check", "file", "found"))
    print_rows(Table(columns, rows), stdout_console(), bold=("failed",), below=(2, 3))
    states = [check.state for check in result.checks]
    say("")
    say(f"{result.state}: {', '.join(f'{states.count(state)} {state}' for state in dict.fromkeys(states))}")
    for text in result.assumptions:
        note(text)
