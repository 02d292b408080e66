"""Looks at a page in headless Chromium: takes pictures of it, and fails on an error in its console or a request.

    python -m tools.page_pictures report.html --out docs/pictures

Three widths and both colour schemes: a phone, a tablet, a desk. Chromium is found on the path, in Playwright's cache, or by
SQUEEZE_EXPORT_CHROMIUM. It is driven through its own pipe (`--remote-debugging-pipe`), so nothing has to be installed.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from typing import Any, Literal

from PIL import Image

from squeeze_export.errors import BadInput, SqueezeExportError, Unavailable
from squeeze_export.files import write_files

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_LIMIT_S = 60
_MOST_PX = 2400
"""Height of a picture; the rest of a longer page is not in it."""


@dataclass(frozen=True)
class View:
    """How a page is looked at."""

    name: str
    width_px: int
    height_px: int
    scheme: Literal["light", "dark"] = "light"
    scale: float = 1.0


VIEWS = (
    View("phone", 390, 844, scale=1.5),
    View("tablet", 820, 1180),
    View("desktop", 1280, 900),
    View("dark", 1280, 900, "dark"),
)


@dataclass(frozen=True)
class Seen:
    """What was seen of a page in one view.

    Attributes:
        picture: PNG of the page from its top.
        errors: of the console, and exceptions.
        requests: addresses that the page asked for, itself and `data:` aside.
        width_px: of the page's content; more than the view's means that the whole page scrolls sideways.
        small: text that is drawn smaller than 9 px, with its size; empty elements are left out.
    """

    picture: bytes
    errors: tuple[str, ...]
    requests: tuple[str, ...]
    width_px: int
    small: tuple[str, ...]


_SMALL = """[...document.querySelectorAll('body *')].filter(e => e.childElementCount === 0 && e.textContent.trim())
  .map(e => [parseFloat(getComputedStyle(e).fontSize) * (e.getScreenCTM ? e.getScreenCTM().d : 1), e.textContent.trim()])
  .filter(([size]) => size < 9).map(([size, text]) => `${size} ${text}`).slice(0, 20)"""


def browser_path() -> str:
    """Where Chromium is.

    Raises:
        Unavailable: nowhere.
    """
    found = os.environ.get("SQUEEZE_EXPORT_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        cached = sorted(Path.home().glob(".cache/ms-playwright/chromium*/chrome-linux*/*chrom*"))
        found = next((str(path) for path in cached if os.access(path, os.X_OK) and path.is_file()), None)
    if found is None:
        raise Unavailable("no Chromium on this machine", hint="install `chromium`, or name one with SQUEEZE_EXPORT_CHROMIUM")
    return found


@dataclass
class Browser:
    """A running Chromium: sends commands of the DevTools protocol, and keeps what it is told meanwhile."""

    to: int
    came: int
    pending: bytes = b""
    count: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            Unavailable: Chromium refuses it, ends, or says nothing for a minute.
        """
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self.to, json.dumps(message).encode() + b"\0")
        for told in self._messages():
            if told.get("id") == self.count:
                if "error" in told:
                    raise Unavailable(f"Chromium refuses {method}: {told['error'].get('message')}")
                answer: dict[str, Any] = told["result"]
                return answer
            self.events.append(told)
        raise Unavailable("Chromium said nothing for a minute, or ended")

    def wait(self, method: str, session: str) -> None:
        """Reads until an event has come."""
        if any(event.get("method") == method and event.get("sessionId") == session for event in self.events):
            return
        for told in self._messages():
            self.events.append(told)
            if told.get("method") == method and told.get("sessionId") == session:
                return
        raise Unavailable(f"Chromium never told of {method}")

    def _messages(self) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + _LIMIT_S
        while True:
            head, found, rest = self.pending.partition(b"\0")
            if found:
                self.pending = rest
                yield json.loads(head)
                continue
            ready, _, _ = select([self.came], [], [], max(end - time.monotonic(), 0))
            more = os.read(self.came, 1 << 20) if ready else b""
            if not more:
                return
            self.pending += more


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A headless Chromium with an empty profile, ended afterwards.

    Raises:
        Unavailable: there is none.
    """
    flags = [
        "--headless=new",
        "--remote-debugging-pipe",
        "--no-first-run",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-background-networking",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # it refuses to run as root otherwise, as containers have it
    commands, answers = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="squeeze-export-chromium-", ignore_cleanup_errors=True) as profile:

        def place() -> None:  # Chromium reads file 3 and writes file 4
            reading, writing = os.dup(commands[0]), os.dup(answers[1])
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        process = subprocess.Popen(
            [browser_path(), *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=place,
        )
        os.close(commands[0])
        os.close(answers[1])
        try:
            yield Browser(commands[1], answers[0])
        finally:
            os.close(commands[1])
            os.close(answers[0])
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def look(browser: Browser, page: Path, view: View) -> Seen:
    """Opens a page in a tab of its own, and takes its picture."""
    target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
    session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def ask(method: str, **parameters: Any) -> dict[str, Any]:
        return browser.ask(method, session, **parameters)

    for domain in ("Page", "Network", "Runtime", "Log"):
        ask(f"{domain}.enable")
    ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": view.scheme}])
    ask(
        "Emulation.setDeviceMetricsOverride",
        width=view.width_px,
        height=view.height_px,
        deviceScaleFactor=view.scale,
        mobile=view.width_px < 600,
    )
    browser.events.clear()
    address = page.resolve().as_uri()
    ask("Page.navigate", url=address)
    browser.wait("Page.loadEventFired", session)
    size = ask("Page.getLayoutMetrics")["cssContentSize"]
    small = ask("Runtime.evaluate", expression=_SMALL, returnByValue=True)["result"].get("value") or []
    clip = {"x": 0, "y": 0, "width": view.width_px, "height": min(size["height"], _MOST_PX), "scale": 1}
    shot = ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    browser.ask("Target.closeTarget", targetId=target)
    return Seen(
        base64.b64decode(shot["data"]),
        tuple(filter(None, map(_error_of, browser.events))),
        tuple(
            url
            for event in browser.events
            if event.get("method") == "Network.requestWillBeSent"
            and (url := event["params"]["request"]["url"]) != address
            and not url.startswith("data:")
        ),
        round(size["width"]),
        tuple(small),
    )


def _error_of(event: dict[str, Any]) -> str:
    """What an event tells of an error; empty if it is none."""
    method, told = event.get("method"), event.get("params", {})
    if method == "Runtime.exceptionThrown":
        return str(told["exceptionDetails"].get("text"))
    if method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
        return " ".join(str(argument.get("value", argument.get("description"))) for argument in told["args"])
    if method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
        return str(told["entry"]["text"])
    return ""


def faults(view: View, seen: Seen) -> list[str]:
    """What is wrong with a page in one view, one line each."""
    found = [f"{view.name}: console: {error}" for error in seen.errors]
    found += [f"{view.name}: it asks for {address}" for address in seen.requests]
    if seen.width_px > view.width_px:
        found.append(f"{view.name}: {seen.width_px} px wide, more than the view's {view.width_px}")
    return found + [f"{view.name}: too small to read: {text}" for text in seen.small]


def small_webp(picture: bytes) -> bytes:
    """A PNG as a WebP, which takes a fraction of its bytes."""
    file = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").save(file, "WEBP", quality=82, method=6)
    return file.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Looks at the page in every view; 1 if anything is wrong with it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path, help="an HTML file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="an existing folder for the pictures; none are kept without it")
    given = parser.parse_args(arguments)
    found: list[str] = []
    try:
        if not given.page.is_file():
            raise BadInput(f"`{given.page}` is no file")
        with running_browser() as browser:
            for view in VIEWS:
                seen = look(browser, given.page, view)
                found += faults(view, seen)
                if given.out is not None:
                    write_files({given.out / f"{given.page.stem}-{view.name}.webp": small_webp(seen.picture)})
    except SqueezeExportError as err:
        print(f"error: {err.message}" + (f"\nhint: {err.hint}" if err.hint else ""), file=sys.stderr)
        return err.exit_code
    print("\n".join(found) or f"{given.page}: no error, no request, nothing too wide or too small in {len(VIEWS)} views")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
