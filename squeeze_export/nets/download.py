"""torchvision's weights, fetched on request into the user's cache."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from squeeze_export.core import Progress, silent
from squeeze_export.errors import BadInput, Unavailable

NAMED_WEIGHTS: Mapping[str, str] = {
    "squeezenet1_0": "https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth",
    "squeezenet1_1": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}
MAX_DOWNLOAD_BYTES = 64 << 20
"""Ten times what the files have."""
TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 16
_AGAIN = "run the command again: it goes on where it stopped"
_BY_HAND = "download it elsewhere and give the file with --weights FILE"


def cache_folder() -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME`, ~/.cache, ~/Library/Caches or %LOCALAPPDATA%, and there `squeeze-export`."""
    home = Path.home()
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = home / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return root / "squeeze-export"


def fetch_weights(name: str, *, cache: Path | None = None, base_url: str | None = None, progress: Progress = silent) -> Path:
    """Gives the path of a named checkpoint, downloading it the first time.

    An interrupted download stays in the cache as `<file>.part`, and the next call goes on where it ended. The file gets its
    name only when its SHA-256 begins as that name says (torchvision's own rule).

    Args:
        name: a key of `NAMED_WEIGHTS`.
        cache: folder to keep it in; None is `cache_folder()`.
        base_url: a mirror's folder instead of the address in `NAMED_WEIGHTS`.
        progress: told the bytes done and to do.

    Raises:
        BadInput: no such name; the file's hash is wrong (it is removed); the cache cannot be written.
        Unavailable: the server cannot be reached, refuses, or breaks off.
    """
    if name not in NAMED_WEIGHTS:
        raise BadInput(f"no weights are called `{name}`", hint=f"a file, or one of: {', '.join(NAMED_WEIGHTS)}")
    url = NAMED_WEIGHTS[name]
    file_name = url.rsplit("/", 1)[1]
    if base_url is not None:
        if not base_url.startswith(("https://", "http://")):
            raise BadInput(f"`{base_url}` is no http or https address")
        url = f"{base_url.rstrip('/')}/{file_name}"
    folder = cache_folder() if cache is None else cache
    target, part = folder / file_name, folder / f"{file_name}.part"
    try:
        if target.exists():
            _check_hash(target, file_name)
            return target
        folder.mkdir(parents=True, exist_ok=True)
        _download(url, part, progress)
        _check_hash(part, file_name)
        os.replace(part, target)
    except OSError as err:
        raise BadInput(f"the cache `{folder}` cannot be used: {err.strerror or err}", hint="set XDG_CACHE_HOME") from err
    return target


def _download(url: str, part: Path, progress: Progress) -> None:
    """Brings `part` to the server's full length, from wherever it stands."""
    have = part.stat().st_size if part.exists() else 0
    response = _open(url, have)
    if response is None:
        return
    with response:
        start = _start(response, have)
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        if total is not None and total > MAX_DOWNLOAD_BYTES:
            raise BadInput(f"`{url}` has `{total}` bytes; at most {MAX_DOWNLOAD_BYTES} are taken")
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            done = _copy(response, file, url, start, total, progress)
    if total is not None and done < total:
        raise Unavailable(f"`{url}` broke off after `{done}` of {total} bytes", hint=_AGAIN)


def _open(url: str, have: int) -> http.client.HTTPResponse | None:
    """Asks for the file from byte `have` on; None where the server says that nothing lies beyond (the hash will tell)."""
    # Without compression, so that byte ranges and lengths mean the file's own bytes.
    headers = {"User-Agent": "squeeze-export", "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as err:
        err.close()
        if err.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return None
        raise Unavailable(f"`{url}` was answered with `{err.code} {err.reason}`", hint=_BY_HAND) from err
    except (OSError, http.client.HTTPException) as err:
        raise Unavailable(f"`{url}` cannot be reached: {_reason(err)}", hint=_BY_HAND) from err
    return response


def _copy(response: http.client.HTTPResponse, file: BinaryIO, url: str, start: int, total: int | None, progress: Progress) -> int:
    """Copies the body, and gives the length reached. What has arrived is on disk even when the connection breaks."""
    done = start
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as err:
            raise Unavailable(f"`{url}` broke off after `{done}` bytes: {_reason(err)}", hint=_AGAIN) from err
        if not chunk:
            return done
        done += len(chunk)
        if done > MAX_DOWNLOAD_BYTES:
            raise BadInput(f"`{url}` sends more than {MAX_DOWNLOAD_BYTES} bytes")
        file.write(chunk)
        progress("download", done, total or done)


def _start(response: http.client.HTTPResponse, have: int) -> int:
    """Where the body begins in the file: at `have` if the server goes on there, else at 0."""
    span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if response.status == HTTPStatus.PARTIAL_CONTENT and span is not None:
        if int(span[1]) != have:
            raise Unavailable(f"the server goes on at byte `{span[1]}`, not at {have}", hint="remove the .part file and run again")
        return have
    return 0


def _check_hash(path: Path, file_name: str) -> None:
    """Compares the hash with the one in the name: `squeezenet1_1-b8a52dc0.pth`. A file that fails is removed."""
    expected = file_name.rsplit("-", 1)[1].split(".")[0]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(expected):
        path.unlink()
        raise BadInput(
            f"`{path}` has the SHA-256 `{digest[:16]}...`, which does not begin with {expected}; it was removed",
            hint="run the command again to download it anew",
        )


def _reason(err: BaseException) -> str:
    return str(getattr(err, "reason", None) or err) or type(err).__name__
