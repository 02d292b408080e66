"""A peer's own process: what reaches the caller when a tool is missing, fails, crashes or prints, and what is left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.table import graph_bytes
from squeeze_export.peers import Source, peer_of, tensorflow
from squeeze_export.peers.process import quantize_here, run_apart
from tests.contract.conftest import net

Fake = Callable[[str, str], Path]

PEER = """
import os, sys
from pathlib import Path

def work(source, recipe, folder):
    print("to stdout"); print("to stderr", file=sys.stderr)
{body}
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


def test_an_error_of_ours_comes_back_as_it_is(run_body: Any) -> None:
    with pytest.raises(BadInput, match=r"^`this`$") as caught:
        run_body("from squeeze_export.errors import BadInput\nraise BadInput('`this`', hint='that')")
    assert caught.value.hint == "that"


def test_a_tools_failure_is_one_line(run_body: Any) -> None:
    with pytest.raises(Refused, match=r"^the tool failed: RuntimeError: first second$") as caught:
        run_body(r"raise RuntimeError('first\n\n  second\n')")
    assert "--recipe" in str(caught.value.hint)


def test_a_missing_package_is_unavailable(run_body: Any) -> None:
    with pytest.raises(Unavailable, match="the tool lacks a package: No module named 'no_such_package'") as caught:
        run_body("import no_such_package")
    assert caught.value.hint == "pip install 'squeeze-export[peers]'"


def test_a_crash_says_how_it_ended(run_body: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refused, match=r"^the tool failed: ended by SIGABRT, its last word$"):
        run_body("sys.stderr.write('its last word\\n\\n'); sys.stderr.flush(); os.abort()")
    assert capfd.readouterr() == ("", "")


def test_the_process_is_away_from_the_users_files(run_body: Any) -> None:
    found = json.loads(run_body("import json\nreturn json.dumps({**os.environ}).encode()"))
    assert found["HOME"] != os.environ["HOME"]
    assert (found["PYTHONHASHSEED"], found["NNCF_CI"], found["TMPDIR"]) == ("0", "1", found["HOME"])


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
        peer_of("tflite").quantize(plain_source(), "vendor")
    assert "\n" not in caught.value.message
    if kind is Unavailable:
        assert caught.value.hint == "pip install 'squeeze-export[peers]'"


# ------------------------------------------------------------------------------------------------------------- the other side


@pytest.mark.parametrize("outcome", [None, Refused("`x`", hint="y"), ImportError("no z"), KeyError("w")])
def test_the_other_side_writes_its_product_or_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Exception | None
) -> None:
    def work(source: Source, recipe: str, folder: Path) -> bytes:
        assert (source.graph.name, str(source.fp32), recipe, list(folder.iterdir())) == (net().graph.name, "f", "r", [])
        np.testing.assert_array_equal(source.pixels, net().pixels)
        if outcome is not None:
            raise outcome
        return b"product"

    (tmp_path / "graph.safetensors").write_bytes(graph_bytes(net().graph))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tensorflow, "work", work)
    asked = {"module": tensorflow.__name__, "fp32": "f", "recipe": "r", "tool": "the tool"}
    if outcome is None:
        quantize_here(asked, {"pixels": net().pixels})
        assert (tmp_path / "product").read_bytes() == b"product"
        return
    with pytest.raises(Unavailable if isinstance(outcome, ImportError) else type(outcome)) as caught:
        quantize_here(asked, {"pixels": net().pixels})
    assert not (tmp_path / "product").exists()
    if isinstance(outcome, ImportError):
        assert str(caught.value) == "the tool lacks a package: no z"
