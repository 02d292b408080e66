"""`squeeze-export gate REPORT.json`: verdicts that a CI run can end with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from squeeze_export.cli.ci import CI, ci_looks, files_asked, tell_ci
from squeeze_export.cli.console import note, print_json, say, shown_progress, stdout_console, warn
from squeeze_export.cli.options import FILE, Choice, Command, Option, option, source_of
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.cli.settings import FILE as SETTINGS
from squeeze_export.cli.settings import PROJECT
from squeeze_export.documents import to_json
from squeeze_export.errors import EXIT_DONE, BadInput, GateFailed, GateUndecided
from squeeze_export.pipeline.ci import judged
from squeeze_export.pipeline.gating import (
    BASELINE,
    ROUNDS,
    WORDS,
    Against,
    BaselineChange,
    GateResult,
    gate,
    given_bounds,
    read_bound,
    update_baseline,
    write_result,
    write_settings,
)
from squeeze_export.report.ci.judged import counts, found, plain
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
AGAINST = (
    option("--baseline", type=FILE, help=f"The baseline; {BASELINE} if it is there."),
    option("--base", type=FILE, metavar="DIR|TABLE", help="Files, or a table to export, that the report's files are timed beside."),
    option("--base-rounds", type=int, default=ROUNDS, help="Rounds of blocks that --base is timed in."),
)
UNDECIDED = option(
    "--undecided", type=Choice(["pass", "fail"]), help="Exit code 0 or 5 where the gate cannot decide, instead of 6."
)
ACTIONS = (
    option("--update", is_flag=True, help="Make the baseline, or renew it, and show what changed."),
    option("--init", is_flag=True, help=f"Add bounds that the report passes to {SETTINGS}, with comments."),
)
OUT = option("--out", group="Output", type=FILE, metavar="DIR", help="Folder of gate.json; by default beside the report.")


@click.command(
    "gate", cls=Command, params=[click.Argument(["report"], type=FILE), *AGAINST, *BOUNDS, UNDECIDED, *ACTIONS, OUT, *CI, *OUTPUT]
)
def command(report: Path, **values: Any) -> int:
    """Hold a report to bounds, to a baseline, and to files timed beside its own. Exit code 5 if something got worse, 6 if that
    cannot be decided.

    \b
    squeeze-export gate squeeze-export-out/report.json --init       write bounds into squeeze-export.toml
    squeeze-export gate squeeze-export-out/report.json --update     write the baseline, a file to commit
    squeeze-export gate squeeze-export-out/report.json --base before/
    """
    baseline: Path = values["baseline"] or BASELINE
    asked = files_asked(values)
    if asked and (values["init"] or values["update"]):
        raise BadInput(f"--{asked[0]} is about the verdict, which --init and --update do not give", hint="run the gate after them")
    if values["init"]:
        write_settings(report, SETTINGS, baseline)
        note(f"wrote {SETTINGS}")
    if values["update"]:
        changed, warnings = update_baseline(report, baseline)
        _print_changes(changed, as_json=values["as_json"])
        for text in warnings:
            warn(text)
        note(f"wrote {baseline}")
    if values["init"] or values["update"]:
        return EXIT_DONE
    with shown_progress() as progress:
        there = values["baseline"] is not None or baseline.exists()
        against = Against(baseline if there else None, values["base"], values["base_rounds"])
        result = gate(report, given_bounds(values), against, progress=progress)
    path = write_result(result, values["out"] or report.parent)
    if values["as_json"]:
        print_json(to_json(result, "gate result"))
    else:
        _print(result)
    note(f"wrote {path}")
    if ci_looks(values):
        given = {"undecided": values["undecided"], "baseline": against.baseline, "key": values["ci_key"]}
        tell_ci(judged(result, report, settings=_settings(), **given), values)
    return _exit_code(result, values["undecided"])


def _settings() -> Path | None:
    """The file that sets bounds; None if none does."""
    if all(source_of(word.replace("-", "_")) is not ParameterSource.DEFAULT_MAP for word in WORDS):
        return None
    return SETTINGS if SETTINGS.is_file() else PROJECT


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
            state = "cleared" if check.cleared else check.state
            rows.append((state, check.name, plain(check.row) or "-", found(check)))
        else:
            kind = (check.state, check.name, plain(check.message) if check.state == "skipped" else "")
            others[kind] = others.get(kind, 0) + 1
    rows += [
        (state, name, f"{count} {'checks' if count > 1 else 'check'}", message) for (state, name, message), count in others.items()
    ]
    columns = tuple(Column(name, "text") for name in ("state", "check", "file", "found"))
    print_rows(Table(columns, rows), stdout_console(), bold=("failed",), below=(2, 3))
    say("")
    say(f"{result.state}: {counts(result)}")
    for text in result.assumptions:
        note(text)


def _print_changes(changes: Sequence[BaselineChange], *, as_json: bool) -> None:
    """One row for each thing that a baseline tells otherwise than before."""
    if as_json:
        print_json([asdict(change) for change in changes])
        return
    if not changes:
        say("nothing changed")
        return
    columns = tuple(Column(name, "text") for name in ("file", "what", "before", "now"))
    rows = [tuple(one_line(text) or "-" for text in astuple(change)) for change in changes]
    print_rows(Table(columns, rows), stdout_console(), below=(2, 3))
