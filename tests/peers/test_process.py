"""A peer's own process: what reaches the caller when a tool is missing, fails, crashes or prints, and what is left behind."""

from __future__ import annotations

import json
import os
import site
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.errors import BadInput, Refused, SqueezeExportError, Unavailable
from squeeze_export.graph.table import graph_bytes
from squeeze_export.peers import Source, _process, tensorflow
from squeeze_export.peers._process import MAX_MESSAGE_CHARACTERS, run_apart, serve
from tests.contract.conftest import net

Fake = Callable[[str, str], Path]

PEER = """
import os, sys
from pathlib import Path
from squeeze_export.peers._process import serve

def work(source, recipe, folder):
    print("to stdout"); print("to stderr", file=sys.stderr)
    print(repr(sys.stdin.read()))
{body}

if __name__ == "__main__":
    serve(work, tool="the tool")
"""


def plain_source(fp32: Path = Path("fp32.onnx")) -> Source:
    return Source(net().graph, fp32, net().pixels)


@pytest.fixture
def run_body(fake_package: Fake) -> Callable[[str], Any]:
    """Runs a peer whose work is the given body."""

    def run(body: str) -> Any:
        fake_package("a_peer", PEER.format(body="\n".join(f"    {line}" for line in body.splitlines())))
        return run_apart("a_peer", plain_source(), "vendor", tool="the tool")

    return run


# ------------------------------------------------------------------------------------------------------------ what comes back


def test_what_is_handed_over_arrives_and_comes_back(run_body: Any) -> None:
    found = run_body(
        "import hashlib\n"
        "from squeeze_export.graph.table import graph_bytes\n"
        "told = (recipe, str(source.fp32), hashlib.sha256(graph_bytes(source.graph)).hexdigest(), source.pixels.sum())\n"
        "return {'told.txt': repr(told).encode(), 'inner/pixels': source.pixels.tobytes()}"
    )
    assert sorted(found) == ["inner/pixels", "told.txt"]
    assert found["inner/pixels"] == net().pixels.tobytes()
    told = found["told.txt"].decode()
    assert "'vendor'" in told
    assert str(Path("fp32.onnx").absolute()) in told  # the process works in another folder


def test_labelled_images_are_handed_over_where_there_are_any(fake_package: Fake) -> None:
    body = (
        "    if source.validation is None: return repr(source.labels).encode()\n"
        "    return repr((source.validation.sum(), source.validation.dtype, source.labels.tolist(), source.labels.dtype)).encode()"
    )
    fake_package("a_peer", PEER.format(body=body))
    labelled = replace(plain_source(), validation=net().pixels[:3], labels=np.array([2, 0, 1], np.int64))
    found = run_apart("a_peer", labelled, "vendor", tool="the tool")
    assert found == repr((net().pixels[:3].sum(), np.dtype("uint8"), [2, 0, 1], np.dtype("int64"))).encode()
    assert run_apart("a_peer", plain_source(), "vendor", tool="the tool") == b"None"


def test_a_file_comes_back_as_bytes(run_body: Any) -> None:
    assert run_body("return b'a file'") == b"a file"


@pytest.mark.parametrize("kind", [BadInput, Unavailable, Refused])
def test_an_error_of_ours_comes_back_as_it_is(run_body: Any, kind: type[SqueezeExportError]) -> None:
    with pytest.raises(kind, match=r"^`this`$") as caught:
        run_body(f"from squeeze_export.errors import {kind.__name__}\nraise {kind.__name__}('`this`', hint='that')")
    assert caught.value.hint == "that"


def test_a_tools_failure_is_one_line(run_body: Any) -> None:
    with pytest.raises(Refused, match=r"^the tool failed: RuntimeError: first second$") as caught:
        run_body(r"raise RuntimeError('first\n\n  second\n')")
    assert "--recipe" in str(caught.value.hint)


def test_a_long_failure_is_cut(run_body: Any) -> None:
    with pytest.raises(Refused) as caught:
        run_body("raise ValueError('x' * 10_000)")
    assert len(caught.value.message) < MAX_MESSAGE_CHARACTERS + 50


def test_a_missing_package_is_unavailable(run_body: Any) -> None:
    with pytest.raises(Unavailable, match="the tool lacks a package: No module named 'no_such_package'") as caught:
        run_body("import no_such_package")
    assert caught.value.hint == "pip install 'squeeze-export[peers]'"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("sys.stderr.write('its last word\\n\\n'); sys.stderr.flush(); os.abort()", "ended by SIGABRT, its last word"),
        ("os._exit(3)", "exit code 3"),
        ("sys.stdout.flush(); os._exit(0)", "exit code 0"),  # without a product
    ],
)
def test_a_crash_says_how_it_ended(run_body: Any, body: str, told: str) -> None:
    with pytest.raises(Refused, match=f"^the tool failed: {told}"):
        run_body(body)


def test_a_process_that_does_not_start_says_so(fake_package: Fake) -> None:
    fake_package("something_else", "")
    with pytest.raises(Refused, match=r"exit code 1, .*No module named a_peer"):
        run_apart("a_peer", plain_source(), "vendor", tool="the tool")


def test_a_process_that_prints_nothing_and_makes_nothing(fake_package: Fake) -> None:
    fake_package("a_peer", "")
    with pytest.raises(Refused, match=r"^the tool failed: exit code 0$"):
        run_apart("a_peer", plain_source(), "vendor", tool="the tool")


# -------------------------------------------------------------------------------------------------------- what is kept away


@pytest.mark.parametrize("body", ["return b'done'", "raise RuntimeError('no')", "os.abort()"])
def test_nothing_is_printed_and_nothing_is_left(
    run_body: Any, body: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "temporary"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    litter = "\n".join(
        f"Path({folder}, 'litter').write_text('left behind')"
        for folder in ("folder", "os.getcwd()", "os.environ['HOME']", "Path.home()")
    )
    try:
        run_body(f"import tempfile\ntempfile.mkstemp()\n{litter}\n{body}")
    except Refused:
        assert not body.startswith("return")
    assert capfd.readouterr() == ("", "")
    assert list(own.iterdir()) == []


def test_the_process_is_repeatable_and_offline_as_far_as_it_can_be_told(run_body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SETTING", "kept")
    found = json.loads(
        run_body("import json, site\nreturn json.dumps({**os.environ, 'site': site.getusersitepackages()}).encode()")
    )
    assert (found["PYTHONHASHSEED"], found["NNCF_CI"], found["SOME_SETTING"]) == ("0", "1", "kept")
    assert found["HOME"] != os.environ["HOME"]
    assert found["TMPDIR"] == found["HOME"]
    assert found["site"] == site.getusersitepackages()  # packages that the user installed are still found


def test_a_peer_runs_without_a_path_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    found = _process._environment(Path("home"))
    assert Path(found["PYTHONPATH"], "squeeze_export", "peers").is_dir()
    assert os.pathsep not in found["PYTHONPATH"]


# -------------------------------------------------------------------------------------------------------- the peers themselves


@pytest.mark.parametrize(
    ("package", "code", "kind", "told"),
    [
        ("tensorflow", "raise ModuleNotFoundError(\"No module named 'tensorflow'\")", Unavailable, "`tensorflow` is not installed"),
        ("tensorflow", "raise OSError('libtensorflow.so: cannot open')", Refused, "`tensorflow` breaks when it is imported"),
        ("tensorflow", "print('made for another processor', flush=True)\nimport os\nos.abort()", Refused, "another processor"),
        ("tensorflow", "", Refused, "TensorFlow's converter failed: AttributeError"),
    ],
)
def test_a_broken_installation_is_one_line(fake_package: Fake, package: str, code: str, kind: Any, told: str) -> None:
    fake_package(package, code)
    with pytest.raises(kind, match=told) as caught:
        tensorflow.quantize(plain_source(), "vendor")
    assert "\n" not in caught.value.message
    if kind is Unavailable:
        assert caught.value.hint == "pip install 'squeeze-export[peers]'"


# ------------------------------------------------------------------------------------------------------------- the other side


@pytest.mark.parametrize("outcome", [None, Refused("`x`", hint="y"), ImportError("no z"), KeyError("w")])
def test_the_other_side_writes_its_product_or_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Exception | None
) -> None:
    (tmp_path / "graph.safetensors").write_bytes(graph_bytes(net().graph))
    np.save(tmp_path / "pixels.npy", net().pixels)
    (tmp_path / "order.json").write_text('{"fp32": "f", "recipe": "r"}')
    monkeypatch.setattr(sys, "argv", ["peer", str(tmp_path)])

    def work(source: Source, recipe: str, folder: Path) -> bytes:
        assert (source.graph.name, str(source.fp32), recipe, list(folder.iterdir())) == (net().graph.name, "f", "r", [])
        np.testing.assert_array_equal(source.pixels, net().pixels)
        if outcome is not None:
            raise outcome
        return b"product"

    if outcome is None:
        serve(work, tool="the tool")
        assert (tmp_path / "product").read_bytes() == b"product"
        return
    with pytest.raises(type(outcome)):
        serve(work, tool="the tool")
    assert not (tmp_path / "product").exists()
    expected = {
        Refused: ["Refused", "`x`", "y"],
        ImportError: ["Unavailable", "the tool lacks a package: no z", "pip install 'squeeze-export[peers]'"],
        KeyError: ["Refused", "the tool failed: KeyError: 'w'", "leave out --recipe to quantize with this tool's own recipe"],
    }
    assert list(json.loads((tmp_path / "failure.json").read_text()).values()) == expected[type(outcome)]
