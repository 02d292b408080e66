"""What docs/ci.md gives to copy: it parses, names what is there, and its scripts run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
import yaml
from action_runner import bare_environment, read

from squeeze_export.cli import cli
from squeeze_export.report.ci import FORMS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
GITHUB, GITLAB = (yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
(JENKINS,) = re.findall(r"^```groovy\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MARKER = "<!-- squeeze-export gate net -->"
NOTE = GITLAB["gate-note"]["script"]


def commands_in(lines):
    """Those of squeeze-export."""
    return [shlex.split(line) for line in lines if line.startswith("squeeze-export ")]


COMMANDS = commands_in([*GITLAB["gate"]["script"], *re.findall(r"'(squeeze-export [^']*)'", JENKINS)])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_parses(words):
    command = cli.get_command(click.Context(cli), words[1])
    assert command is not None
    command.make_context(words[1], words[2:])


def test_all_commands_are_found():
    assert [words[1] for words in COMMANDS] == ["onnx", "gate", "onnx", "gate"]


def test_the_step_for_github_names_inputs_of_the_action():
    (step,) = GITHUB
    assert set(step["with"]) <= set(read(ROOT / "action.yml")["inputs"])


def test_gitlab_shows_what_the_gate_writes():
    job = GITLAB["gate"]
    assert job["artifacts"]["reports"]["junit"].removeprefix("ci/") in FORMS
    assert job["allow_failure"] == {"exit_codes": [6]}
    assert "ci/comment.md" in NOTE[-1]
    assert "comment.md" in FORMS


def test_the_jenkins_stage_is_balanced_and_knows_the_exit_codes():
    for opening, closing in ("{}", "()"):
        assert JENKINS.count(opening) == JENKINS.count(closing)
    assert "code == 6" in JENKINS
    assert "junit testResults: 'ci/junit.xml'" in JENKINS


def test_every_form_is_on_the_page():
    assert set(re.findall(r"^\| `(\S+)` \|", PAGE, re.MULTILINE)) == set(FORMS)


@pytest.fixture
def gitlab():
    """A stand-in for GitLab's notes: its URL, the notes that are there, and what was written."""
    notes, wrote = [], []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, value):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def do_GET(self):
            self.answer(notes)

        def write(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            wrote.append((self.command, self.path, self.headers["PRIVATE-TOKEN"], body))
            self.answer({})

        do_POST = do_PUT = write  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", notes, wrote
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="GitLab's note needs curl")
@pytest.mark.parametrize(
    ("there", "method", "path"),
    [
        ([], "POST", "/projects/1/merge_requests/2/notes"),
        ([{"id": 7, "body": "hello"}], "POST", "/projects/1/merge_requests/2/notes"),
        ([{"id": 7, "body": "hello"}, {"id": 8, "body": f"{MARKER}\nold"}], "PUT", "/projects/1/merge_requests/2/notes/8"),
    ],
)
def test_the_note_on_a_merge_request(there, method, path, gitlab, tmp_path):
    url, notes, wrote = gitlab
    notes += there
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci/comment.md").write_text(f"{MARKER}\n### $(touch ran) & @x;y=z\n", encoding="utf-8")
    environment = bare_environment(
        PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin",
        CI_API_V4_URL=url,
        CI_PROJECT_ID="1",
        CI_MERGE_REQUEST_IID="2",
        GATE_TOKEN="t0ken",
        no_proxy="127.0.0.1",
    )
    subprocess.run(["bash", "-eo", "pipefail", "-c", "\n".join(NOTE)], cwd=tmp_path, env=environment, check=True, timeout=60)
    ((did, where, token, body),) = wrote
    assert (did, where, token) == (method, path, "t0ken")
    assert f"{MARKER}\n### $(touch ran) & @x;y=z\n" in body
    assert not (tmp_path / "ran").exists()
