"""Targets in processes of their own: the same files, and a toolchain that breaks takes down only its own."""

import os
import time
from dataclasses import asdict

import pytest

from squeeze_export.core import EmitOptions, silent
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.golden import golden
from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.graph.table import table_bytes
from squeeze_export.pipeline import export
from squeeze_export.pipeline.exporting import Order, export_apart, write_files

TARGETS = ("onnx", "tflite")


@pytest.fixture
def orders(network, quantized, tmp_path):
    """int8 into one folder, fp32 into another."""
    folders = [tmp_path / "int8", tmp_path / "fp32"]
    for folder in folders:
        folder.mkdir()
    return [Order(quantized, INT8, folders[0]), Order(network.graph, FP32, folders[1])]


@pytest.fixture
def toolchain(tmp_path, monkeypatch):
    """`toolchain("onnx", source)`: what `import onnx` runs in the processes to come."""

    def put(package, source):
        folder = tmp_path / "packages"
        (folder / package).mkdir(parents=True, exist_ok=True)
        (folder / package / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(folder)

    return put


def apart(orders, **changes):
    values = {"name": "net", "options": EmitOptions(), "origin": {}, "progress": silent}
    return {each.target: each for each in export_apart(TARGETS, orders, **values | changes)}


def test_the_files_are_those_of_an_export_here(orders, made):
    told = []
    found = apart(orders, progress=lambda what, done, total: told.append((what, done, total)))
    for target in TARGETS:
        fp32, int8 = found[target].files
        assert int8.sha256 == made[target, "int8"].sha256
        assert fp32.sha256 == made[target, "fp32"].sha256
        assert int8.path.read_bytes() == made[target, "int8"].path.read_bytes()
        assert int8.audit.violations == ()
    assert told == [("exporting", done, 2) for done in range(3)]


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("raise RuntimeError('the wrong glibc')", Refused, "`onnx` breaks when it is imported: RuntimeError: the wrong glibc"),
        ("raise ImportError('no such symbol')", Unavailable, "`onnx` is not installed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", Refused, "the onnx toolchain failed: ended by SIGSEGV"),
        ("import sys; sys.exit('licence expired')", Refused, "the onnx toolchain failed: exit code 1, licence expired"),
    ],
)
def test_a_broken_toolchain_leaves_the_others(source, kind, message, orders, toolchain):
    toolchain("onnx", source)
    found = apart(orders)
    assert isinstance(found["onnx"].failure, kind)
    assert message in found["onnx"].failure.message
    assert [artifact.scheme for artifact in found["tflite"].files] == ["fp32", "int8"]
    assert not list(orders[0].out.glob("*.onnx*"))


def test_a_refusal_keeps_its_hint(orders):
    found = apart(orders, name="../net")
    assert isinstance(found["onnx"].failure, BadInput)
    assert "is no file name" in found["onnx"].failure.message


def test_what_the_user_stands_in_is_no_package_folder(orders, tmp_path, monkeypatch):
    """A `numpy.py` among somebody's photographs is not run."""
    (tmp_path / "numpy.py").write_text("raise RuntimeError('run')")
    monkeypatch.chdir(tmp_path)
    assert all(len(each.files) == 2 for each in apart(orders).values())


def test_processes_end_when_the_job_does(orders, toolchain, tmp_path):
    """And remove what they have begun: `^C` finds one in the middle of its work."""
    told = tmp_path / "told"
    toolchain(
        "onnx",
        f"import os, pathlib, time\ntry:\n    pathlib.Path({str(told)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\nfinally:\n"
        f"    pathlib.Path({str(told)!r}).unlink()\n",
    )

    def interrupt(what, done, total):
        until = time.monotonic() + 60
        while not (told.exists() and told.read_text()) and time.monotonic() < until:
            time.sleep(0.01)
        started.append(int(told.read_text()))
        raise KeyboardInterrupt

    started = []
    with pytest.raises(KeyboardInterrupt):
        apart(orders, progress=interrupt)
    assert not told.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


# --- the other side, here


def request(folder, quantized, **changes):
    (folder / "0.network").write_bytes(table_bytes(quantized))
    answers = asdict(golden(quantized, INT8))
    order = {"network": str(folder / "0.network"), "scheme": "int8", "out": str(folder), "answers": answers}
    return {"target": "onnx", "name": "net", "options": {"softmax": True}, "origin": {}, "orders": [order]} | changes


def test_the_other_side_answers_with_paths(quantized, tmp_path):
    assert write_files(request(tmp_path, quantized), {}) == ({"paths": [str(tmp_path / "net.int8.onnx")]}, {})
    alone, _ = export(quantized, "onnx", INT8, tmp_path, name="alone", options=EmitOptions(softmax=True))
    assert (tmp_path / "net.int8.onnx").read_bytes() == alone.path.read_bytes()


def test_the_other_side_raises_what_is_wrong(quantized, tmp_path):
    with pytest.raises(BadInput, match="no file name"):
        write_files(request(tmp_path, quantized, name="a/b"), {})
