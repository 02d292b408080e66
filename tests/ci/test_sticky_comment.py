"""The comment on a pull request: posted once, renewed from then on, and nobody else's is touched."""

import shutil
import sys
from pathlib import Path

import pytest
from action_runner import bare_environment, read, run_steps

from squeeze_export.report.ci.markdown import COMMENT_BYTES
from tools.sticky_comment import MOST_CHARACTERS, main

ROOT = Path(__file__).parents[2]
MARKER, BOT = "<!-- squeeze-export gate net -->", "github-actions[bot]"
TEXT = f"{MARKER}\n### squeeze-export gate: passed — ünïcode\n"


@pytest.fixture
def comment(github, tmp_path, monkeypatch):
    """The file of a comment, where the variables name the stand-in."""
    monkeypatch.setenv("GITHUB_API_URL", github.url)
    monkeypatch.setenv("GITHUB_REPOSITORY", "us/net")
    monkeypatch.setenv("GITHUB_TOKEN", "t0ken")
    path = tmp_path / "comment.md"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_the_first_comment_is_posted(github, comment):
    github.comments = [
        (1, "someone", f"{MARKER}\nnot the bot's"),
        (2, BOT, "of another workflow"),
        (3, BOT, "<!-- squeeze-export gate net2 -->\nof another network"),
    ]
    assert main(["--number", "12", str(comment)]) == "commented on pull request 12"
    assert github.wrote == [("POST", "/repos/us/net/issues/12/comments", TEXT)]


def test_the_next_one_renews_it_however_many_there_are(github, comment):
    github.comments = [(number, "someone", "hello") for number in range(200)] + [(777, BOT, f"{MARKER}\nold")]
    assert main(["--number", "12", str(comment)]) == "renewed the comment on pull request 12"
    assert github.wrote == [("PATCH", "/repos/us/net/issues/comments/777", TEXT)]


def test_the_pull_request_of_a_forks_branch(github, comment):
    github.pulls = [(11, "fork:patch", "b" * 40), (12, "fork:a&b=c", "a" * 40)]
    assert main(["--head", "fork:a&b=c", "--commit", "a" * 40, str(comment)]) == "commented on pull request 12"
    assert main(["--head", "fork:patch", "--commit", "a" * 40, str(comment)]).startswith("no open pull request ends with")
    assert len(github.wrote) == 1


@pytest.mark.parametrize("text", ["### no marker", "<!-- squeeze-export gate a b -->\n", f"{MARKER}\n{'x' * MOST_CHARACTERS}", ""])
def test_what_is_no_comment_of_ours_is_not_posted(text, github, comment):
    comment.write_text(text)
    with pytest.raises(SystemExit, match="is no comment of squeeze-export gate"):
        main(["--number", "12", str(comment)])
    assert github.wrote == []


def test_a_link_is_not_followed(github, comment, tmp_path):
    (tmp_path / "link.md").symlink_to(comment)
    with pytest.raises(SystemExit, match="is no file"):
        main(["--number", "12", str(tmp_path / "link.md")])


def test_a_token_that_may_not_write(github, comment):
    github.refuses = True
    with pytest.raises(SystemExit, match=r"GitHub answers 403 to POST .*pull-requests: write"):
        main(["--number", "12", str(comment)])


def test_a_comment_fits():
    assert COMMENT_BYTES < MOST_CHARACTERS


def posted_by(steps, github, tmp_path, contexts):
    """What the steps called Comment do."""
    (tmp_path / "work").mkdir()
    shutil.copytree(ROOT / "tools", tmp_path / "work/tools", ignore=shutil.ignore_patterns("__pycache__"))
    environment = bare_environment(
        PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin",
        RUNNER_TEMP=str(tmp_path / "temp"),
        GITHUB_API_URL=github.url,
        GITHUB_REPOSITORY="us/net",
    )
    found = [
        {**step, "env": {**step["env"], "FOLDER": str(tmp_path / "temp/gate")}} for step in steps if step.get("name") == "Comment"
    ]
    assert len(found) == 1
    return run_steps(found, tmp_path / "work", contexts, environment)


@pytest.fixture
def uploaded(tmp_path):
    folder = tmp_path / "temp/gate/ci"
    folder.mkdir(parents=True)
    (folder / "comment.md").write_text(TEXT, encoding="utf-8")


def event(repository):
    return {
        "inputs": {"comment": "true", "token": "t0ken"},
        "github": {
            "action_path": str(ROOT),
            "repository": "us/net",
            "token": "t0ken",
            "event": {
                "pull_request": {"number": 12, "head": {"repo": {"full_name": repository}}},
                "workflow_run": {
                    "head_branch": "$(touch ran)",
                    "head_sha": "a" * 40,
                    "head_repository": {"owner": {"login": "fork"}},
                },
            },
        },
    }


def test_the_step_of_the_action(github, tmp_path, uploaded):
    steps = read(ROOT / "action.yml")["runs"]["steps"]
    done = posted_by(steps, github, tmp_path, event("us/net"))
    assert (done.code, done.log) == (0, "commented on pull request 12\n")


def test_a_fork_gets_no_comment_of_the_action_itself(github, tmp_path, uploaded):
    steps = read(ROOT / "action.yml")["runs"]["steps"]
    assert posted_by(steps, github, tmp_path, event("fork/net")).names == []


def test_the_step_of_the_second_workflow(github, tmp_path, uploaded):
    github.pulls = [(12, "fork:$(touch ran)", "a" * 40)]
    steps = read(ROOT / "examples/github/gate-comment.yml")["jobs"]["comment"]["steps"]
    done = posted_by(steps, github, tmp_path, event("fork/net"))
    assert (done.code, done.log) == (0, "commented on pull request 12\n")
    assert not (tmp_path / "work/ran").exists()
