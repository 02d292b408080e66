"""action.yml and the example workflows: every step is run here, and none takes an input but through its environment."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from action_runner import bare_environment, commands, filled, holds, read, run_steps

ROOT = Path(__file__).parents[2]
ACTION = read(ROOT / "action.yml")
STEPS = ACTION["runs"]["steps"]
EXAMPLES = sorted((ROOT / "examples/github").glob("*.yml"))
PINNED = {
    "actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683": "v4.2.2",
    "actions/download-artifact@d3f86a106a0bac45b974a628896c90dbdf5c8093": "v4.3.0",
    "actions/setup-python@a26af69be951a213d495a4c3e4e4022e16d87065": "v5.6.0",
    "actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02": "v4.6.2",
}
"""Actions that may be used, by commit: a tag can be moved."""
OURS = "OWNER/squeeze-export@v0.1.0"


def steps_of(path):
    tree = read(path)
    return tree["runs"]["steps"] if "runs" in tree else [step for job in tree["jobs"].values() for step in job["steps"]]


def injected(steps):
    """Scripts with an expression inside: what it stands for would be run."""
    return [step["run"] for step in steps if "${{" in step.get("run", "")]


def strangers(steps):
    """Actions that are not on the list."""
    return [step["uses"] for step in steps if "uses" in step and step["uses"] not in {*PINNED, OURS}]


@pytest.mark.parametrize("path", [ROOT / "action.yml", *EXAMPLES], ids=lambda path: path.name)
def test_no_script_holds_an_expression_and_every_action_is_pinned(path):
    steps = steps_of(path)
    assert (injected(steps), strangers(steps)) == ([], [])
    text = path.read_text(encoding="utf-8")
    assert all(f"uses: {use} # {version}" in text for use, version in PINNED.items() if use in text)


def test_what_is_injected_or_unpinned_is_found():
    """Negative control."""
    steps = [{"run": "echo ${{ inputs.weights }}"}, {"uses": "actions/checkout@v4"}, {"run": "echo $WEIGHTS"}]
    assert injected(steps) == ["echo ${{ inputs.weights }}"]
    assert strangers(steps) == ["actions/checkout@v4"]


def test_every_input_is_explained_and_used():
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    for name, settings in ACTION["inputs"].items():
        assert settings["description"].endswith((".", "`")), name
        assert "default" in settings, name
        assert f"inputs.{name} " in text, name


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What a checkout of the action holds, as far as it matters: building leaves its own files in it."""
    folder = tmp_path_factory.mktemp("source") / "squeeze-export"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "squeeze_export", folder / "squeeze_export", ignore=ignored)
    (folder / "tools").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "tools/sticky_comment.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def act(tiny, tmp_path, source):
    """Runs the action on the tiny network, with these inputs; gives the run and the folder that it made."""

    def call(steps=STEPS, **inputs):
        (tmp_path / "work").mkdir(exist_ok=True)
        given = {name: filled(settings["default"], {}) for name, settings in ACTION["inputs"].items()}
        given |= {name: str(tiny / name) for name in ("calib", "eval")} | {"weights": str(tiny / "tiny.safetensors")}
        given |= {"options": "--no-bench\n--skip-broken"} | {name.replace("_", "-"): text for name, text in inputs.items()}
        contexts = {
            "inputs": given,
            "github": {"action_path": str(source), "repository": "us/net"},
            "runner": {"temp": str(tmp_path / "temp")},
        }
        environment = bare_environment(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            PYTHONPATH=str(ROOT),
            RUNNER_TEMP=str(tmp_path / "temp"),
            GITHUB_ACTIONS="true",
            # What pip may do here: build what lies there, ask no index, and leave this environment alone.
            PIP_NO_INDEX="1",
            PIP_NO_DEPS="1",
            PIP_NO_BUILD_ISOLATION="0",
            PIP_TARGET=str(tmp_path / "installed"),
        )
        return run_steps(steps, tmp_path / "work", contexts, environment), tmp_path / "temp" / "squeeze-export"

    return call


BUT_INSTALL = [step for step in STEPS if step.get("name") != "Install"]


def test_it_installs_the_checkout_with_all_its_templates(act, tmp_path):
    done, _ = act([step for step in STEPS if step["name"] in ("Set up Python", "Install")])
    assert (done.code, list(done.used.values())) == (0, [{"python-version": "3.11"}]), done.log
    assert (tmp_path / "installed/squeeze_export/report/ci/templates/junit.xml").is_file()


def test_a_run_that_passes(act, tmp_path):
    done, folder = act(BUT_INSTALL, bounds="max-size=1MB\nmin-agreement=50\n", key="macos-15")
    assert done.code == 0, done.log
    assert done.names == ["Set up Python", "Export and measure", "Gate", "Upload", "Verdict"]
    assert done.outputs["gate"] == {"exit-code": "0", "state": "passed"}
    assert {path.name for path in folder.iterdir()} >= {"gate.json", "report.json", "ci"}
    assert [path.suffix for path in folder.glob("*.int8.onnx")] == [".onnx"]
    assert done.used["actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02"]["path"] == str(folder)
    assert (tmp_path / "github_step_summary").read_text().startswith("### squeeze-export gate: passed\n")
    assert (folder / "ci/comment.md").read_text().splitlines()[0].endswith("-macos-15 -->")
    assert done.commands == []


def test_a_run_that_fails(act):
    """The verdict comes last, so that what tells why is uploaded; its annotations count, and what the log says does not."""
    done, folder = act(BUT_INSTALL, bounds="max-size=1KB", comment="true")
    assert (done.codes["Gate"], done.codes["Verdict"]) == (0, 5)
    assert done.names == ["Set up Python", "Export and measure", "Gate", "Upload", "Verdict"]  # it is no pull request
    assert done.outputs["gate"]["state"] == "failed"
    assert [(name, properties) for name, properties, _ in done.commands] == [("error", "title=squeeze-export gate%3A max-size")]
    assert json.loads((folder / "ci/badge.json").read_text())["message"] == "1 failed"


def test_a_run_that_goes_wrong_uploads_what_there_is(act):
    done, _ = act(BUT_INSTALL, targets="onxn")
    assert done.codes == {"Export and measure": 2}
    assert done.names[-1] == "Upload"
    assert "did you mean" in done.log


def test_a_gate_that_cannot_judge_is_an_annotation(act):
    done, _ = act(BUT_INSTALL, baseline="none.json")
    assert done.codes["Gate"] == 2
    ((name, _, message),) = done.commands
    assert name == "error"
    assert message.startswith("it could not judge (exit code 2)")


def test_inputs_are_words_and_never_run(act, tmp_path):
    harmful = f'$(touch {tmp_path}/ran); `touch {tmp_path}/ran` "; touch {tmp_path}/ran #'
    done, _ = act(BUT_INSTALL, weights=harmful, calib=harmful, bounds=harmful, options=harmful)
    assert done.code == 2
    assert not (tmp_path / "ran").exists()


def test_a_bound_that_is_none_ends_with_its_own_code(act, tmp_path):
    (tmp_path / "temp/squeeze-export").mkdir(parents=True)
    gate = [{**step, "env": {**step["env"], "FOLDER": str(tmp_path)}} for step in STEPS if step["name"] == "Gate"]
    done, _ = act(gate, bounds="max-sise=1")
    assert (done.code, done.outputs["gate"]) == (2, {"exit-code": "2"})


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ("::error title=a::b", [("error", "title=a", "b")]),
        ("x ::error::b", []),
        ("x ##[error]b", [("error", "", "b")]),
        ("::stop-commands::abc\n::error::b\n::abc::\n::notice::c", [("notice", "", "c")]),
    ],
)
def test_commands_in_a_log(log, found):
    assert commands(log) == found


@pytest.mark.parametrize(
    ("condition", "failed", "found"),
    [
        ("success()", True, False),
        ("always() && inputs.a != ''", True, True),
        ("inputs.a == 'x' && inputs.b == 'y'", False, False),
        ("inputs.a == github.a", False, True),
    ],
)
def test_conditions(condition, failed, found):
    assert holds(condition, {"inputs": {"a": "x"}, "github": {"a": "x"}}, failed=failed) is found


def test_the_examples_name_what_is_there():
    gate, comment = (read(ROOT / "examples/github" / name) for name in ("gate.yml", "gate-comment.yml"))
    (step,) = [step for step in gate["jobs"]["gate"]["steps"] if step["uses"] == OURS]
    assert set(step["with"]) <= set(ACTION["inputs"])
    assert comment[True]["workflow_run"]["workflows"] == [gate["name"]]
    download = comment["jobs"]["comment"]["steps"][1]["with"]
    assert download["name"] == ACTION["inputs"]["artifact"]["default"]
    assert not re.search(r"secrets\.|pull_request_target", (ROOT / "examples/github/gate.yml").read_text())
    assert gate["permissions"] == {"contents": "read"}
