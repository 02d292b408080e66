"""Comments on a GitHub pull request, or renews the comment that an earlier run made.

    python tools/sticky_comment.py --number 12 comment.md
    python tools/sticky_comment.py --head OWNER:BRANCH --commit SHA comment.md

Needs nothing but Python, and the variables that GitHub sets: GITHUB_REPOSITORY, GITHUB_API_URL, and GITHUB_TOKEN, which may write
to pull requests. The text is posted as it is, so it may come from a job that a stranger's code ran in.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARKER = re.compile(r"<!-- squeeze-export gate( [A-Za-z0-9_.-]{1,80})? -->")
"""First line of the comment; the name is the network's."""
MOST_CHARACTERS = 65_536
"""Of a comment, by GitHub."""
AUTHOR = "github-actions[bot]"
"""Who comments with a job's own token: nobody else's comment is renewed, whatever it begins with."""
_PAGE, _MOST_PAGES = 100, 30


def main(arguments: list[str]) -> str:
    """Posts the comment; says what was done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--number", type=int, help="the pull request")
    parser.add_argument("--head", help="or its branch, as OWNER:BRANCH")
    parser.add_argument("--commit", help="and the last commit of that branch")
    given = parser.parse_args(arguments)
    if given.number is None and not (given.head and given.commit):
        parser.error("--number, or --head and --commit")
    text = read_comment(given.file)
    marker = text.split("\n", 1)[0]
    number = given.number or pull_request(given.head, given.commit)
    if number is None:
        return "no open pull request ends with this commit: it has a newer one, or is closed"
    for comment in every(f"issues/{number}/comments"):
        if comment["user"]["login"] == AUTHOR and (comment["body"] or "").startswith(marker):
            call("PATCH", f"issues/comments/{int(comment['id'])}", {"body": text})
            return f"renewed the comment on pull request {number}"
    call("POST", f"issues/{number}/comments", {"body": text})
    return f"commented on pull request {number}"


def read_comment(path: Path) -> str:
    """The comment's text.

    Raises:
        SystemExit: it is no plain file, too long, or does not begin with a `MARKER`.
    """
    if path.is_symlink() or not path.is_file():
        sys.exit(f"{path} is no file")
    with path.open("rb") as stream:
        text = stream.read(4 * MOST_CHARACTERS).decode("utf-8", "replace")
    if len(text) > MOST_CHARACTERS or not MARKER.fullmatch(text.split("\n", 1)[0]):
        sys.exit(f"{path} is no comment of squeeze-export gate, or longer than GitHub takes")
    return text


def pull_request(head: str, commit: str) -> int | None:
    """The open pull request of a branch that ends with a commit."""
    for found in every("pulls", state="open", head=head):
        if found["head"]["sha"] == commit:
            return int(found["number"])
    return None


def every(path: str, **query: str) -> Iterator[Any]:
    """All entries of a list, page by page."""
    for page in range(1, _MOST_PAGES + 1):
        entries = call("GET", f"{path}?{urllib.parse.urlencode({**query, 'per_page': _PAGE, 'page': page})}")
        yield from entries
        if len(entries) < _PAGE:
            return


def call(method: str, path: str, body: dict[str, str] | None = None) -> Any:
    """A request to GitHub's API about this repository; gives the answer's JSON.

    Raises:
        SystemExit: GitHub refuses it.
    """
    request = urllib.request.Request(
        f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
            "Accept": "application/vnd.github+json",
            "Content-Type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as err:
        sys.exit(f"GitHub answers {err.code} to {method} {path.partition('?')[0]}: the token needs `pull-requests: write`")


if __name__ == "__main__":
    print(main(sys.argv[1:]))
