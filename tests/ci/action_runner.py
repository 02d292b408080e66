"""Runs GitHub's composite actions and the jobs of workflows here: enough of them for ours, and nothing else.

Scripts run as GitHub runs them, `uses:` steps are only noted, and the log is read for workflow commands as the runner reads it:
https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_COMMAND = re.compile(r"^\s*::(?P<name>[\w-]+|[0-9a-f]{32})(?: (?P<properties>[^:]*))?::(?P<data>.*)$")
_OLD_COMMAND = re.compile(r"##\[(?P<name>[\w-]+)(?: (?P<properties>[^\]]*))?\](?P<data>.*)$")


@dataclass
class Run:
    """What a run did.

    Attributes:
        names: of the steps that ran, in order.
        used: action -> what it was given, of `uses:` steps.
        codes: step -> exit code of its script.
        commands: workflow commands that the runner would have followed: name, properties, data.
        log: all that was printed.
        outputs: step's id -> its outputs.
    """

    names: list[str] = field(default_factory=list)
    used: dict[str, Mapping[str, str]] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    commands: list[tuple[str, str, str]] = field(default_factory=list)
    log: str = ""
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def code(self) -> int:
        """0, or that of the first step that failed."""
        return next((code for code in self.codes.values() if code), 0)


def read(path: Path) -> Any:
    """The YAML of a file. Its `on:` is the key True, as in YAML 1.1."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def run_steps(steps: Sequence[Any], folder: Path, contexts: Mapping[str, Any], environment: Mapping[str, str]) -> Run:
    """Runs steps.

    Args:
        steps: of an action or a job.
        folder: the workspace.
        contexts: `inputs`, `github`, `runner`: names -> values.
        environment: that the scripts see besides their own.
    """
    run = Run()
    files = {name: folder.parent / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for step in steps:
        known = {**contexts, "steps": {name: {"outputs": outputs} for name, outputs in run.outputs.items()}}
        name = step.get("name", step.get("uses", ""))
        condition = _EXPRESSION.sub(r"\1", str(step.get("if", "success()")))
        if not holds(condition, known, failed=run.code != 0):
            continue
        run.names.append(name)
        if "uses" in step:
            run.used[step["uses"]] = {key: filled(str(value), known) for key, value in step.get("with", {}).items()}
            continue
        assert step["shell"] == "bash", name
        files["GITHUB_OUTPUT"].write_text("")
        files["GITHUB_STEP_SUMMARY"].touch()
        script = folder.parent / "script.sh"
        script.write_text(step["run"])
        variables = {key: filled(str(value), known) for key, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=folder / filled(step.get("working-directory", "."), known),
            env={**environment, **{name: str(path) for name, path in files.items()}, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            timeout=240,
        )
        run.codes[name] = done.returncode
        run.log += done.stdout
        run.commands += commands(done.stdout)
        lines = files["GITHUB_OUTPUT"].read_text().splitlines()
        run.outputs[step.get("id", name)] = dict(line.split("=", 1) for line in lines)
    return run


def commands(log: str) -> list[tuple[str, str, str]]:
    """The workflow commands in a log that the runner follows: name, properties, data."""
    found: list[tuple[str, str, str]] = []
    token = ""
    for line in log.splitlines():
        match = _COMMAND.match(line) or _OLD_COMMAND.search(line)
        if match is None:
            continue
        name, properties, data = match["name"], match["properties"] or "", match["data"]
        if token:
            token = "" if name == token else token
        elif name == "stop-commands":
            token = data
        else:
            found.append((name, properties, data))
    return found


def filled(text: str, contexts: Mapping[str, Any]) -> str:
    """A text with its expressions replaced: each is a path through the contexts."""
    return _EXPRESSION.sub(lambda match: value(match[1], contexts), text)


def value(expression: str, contexts: Mapping[str, Any]) -> str:
    """What an expression of the plainest kind gives: a quoted text, or a path such as `inputs.targets`, empty if not there."""
    if re.fullmatch(r"'[^']*'", expression):
        return expression[1:-1]
    assert re.fullmatch(r"(inputs|github|runner|steps)(\.[\w-]+)+", expression), expression
    found: Any = contexts
    for part in expression.split("."):
        found = found.get(part, "") if isinstance(found, Mapping) else ""
    return str(found)


def holds(condition: str, contexts: Mapping[str, Any], *, failed: bool) -> bool:
    """Whether a step runs: `a == b && c != d`, where a step after one that failed needs `always()`."""
    parts = [part.strip() for part in condition.split("&&")]
    if failed and "always()" not in parts:
        return False
    for part in parts:
        if part in ("always()", "success()"):
            continue
        left, sign, right = re.fullmatch(r"(\S+) (==|!=) (\S+)", part).groups()
        if (value(left, contexts) == value(right, contexts)) != (sign == "=="):
            return False
    return True


def bare_environment(**more: str) -> dict[str, str]:
    """The environment of this process without what CI or this project put there."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("SQUEEZE_EXPORT_", "GITHUB_", "RUNNER_"))}
    return {**kept, **more}
