"""Targets in processes of their own: the same files, and a toolchain that breaks takes down only its own."""

import json
import os

import pytest

from squeeze_export.core import EmitOptions, silent
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.pipeline import export
from squeeze_export.pipeline.processes import Order, export_apart
from squeeze_export.pipeline.worker import main

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
    values = {"name": "net", "options": EmitOptions(), "progress": silent}
    return export_apart(TARGETS, orders, **values | changes)


def test_the_files_are_those_of_an_export_here(orders, made):
    told = []
    found = apart(orders, progress=lambda what, done, total: told.append((what, done, total)))
    for target in TARGETS:
        (int8, audit), (fp32, _) = found[target]
        assert int8.sha256 == made[target, "int8"].sha256
        assert fp32.sha256 == made[target, "fp32"].sha256
        assert int8.path.read_bytes() == made[target, "int8"].path.read_bytes()
        assert audit.violations == ()
    assert told == [("exporting", done, 2) for done in range(3)]


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("raise RuntimeError('the wrong glibc')", Refused, "`onnx` breaks when it is imported: RuntimeError: the wrong glibc"),
        ("raise ImportError('no such symbol')", Unavailable, "`onnx` is not installed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", Refused, "the onnx toolchain failed: it was ended by SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 1)", Refused, "failed: it was ended by "),
        ("import os; os._exit(7)", Refused, "the onnx toolchain failed: exit code 7"),
        ("import os; os._exit(0)", Refused, "the onnx toolchain failed: exit code 0"),
        ("import sys; sys.exit('licence expired')", Refused, "the onnx toolchain failed: licence expired"),
    ],
)
def test_a_broken_toolchain_leaves_the_others(source, kind, message, orders, toolchain):
    toolchain("onnx", source)
    found = apart(orders)
    assert isinstance(found["onnx"], kind)
    assert message in found["onnx"].message
    assert [artifact.scheme for artifact, _ in found["tflite"]] == ["int8", "fp32"]
    assert not list(orders[0].out.glob("*.onnx*"))


def test_a_refusal_keeps_its_hint(orders):
    found = apart(orders, name="../net")
    assert isinstance(found["onnx"], BadInput)
    assert "is no file name" in found["onnx"].message


def test_what_the_user_stands_in_is_no_package_folder(orders, tmp_path, monkeypatch):
    """A `numpy.py` among somebody's photographs is not run."""
    (tmp_path / "numpy.py").write_text("raise RuntimeError('run')")
    monkeypatch.chdir(tmp_path)
    assert all(isinstance(found, list) for found in apart(orders).values())


def test_a_full_temporary_folder_is_told(orders, toolchain):
    """Not even what went wrong can be written there."""
    toolchain(
        "onnx",
        "import errno, pathlib\n"
        "def full(*_, **__):\n"
        "    raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "pathlib.Path.write_text = full\n"
        "raise RuntimeError('nobody reads this')\n",
    )
    found = apart(orders)
    assert isinstance(found["onnx"], BadInput)
    assert found["onnx"].message == "the onnx file needs more space than the temporary folder has"
    assert "TMPDIR" in found["onnx"].hint
    assert isinstance(found["tflite"], list)


def test_a_terminals_interrupt_reaches_this_process_alone(orders, monkeypatch):
    """Its children are told by us, once: a second ^C would interrupt what they do about the first."""
    from squeeze_export.pipeline import processes

    sessions = []
    start = processes._start

    def started(*args):
        process = start(*args)
        sessions.append(os.getsid(process.pid) if hasattr(os, "getsid") else process.pid)
        return process

    monkeypatch.setattr(processes, "_start", started)
    apart(orders)
    assert hasattr(os, "getsid") is False or os.getsid(0) not in sessions


def test_processes_end_when_the_job_does(orders, monkeypatch):
    started = []

    def interrupt(what, done, total):
        raise KeyboardInterrupt

    from squeeze_export.pipeline import processes

    start = processes._start
    monkeypatch.setattr(processes, "_start", lambda *args: started.append(start(*args)) or started[-1])
    with pytest.raises(KeyboardInterrupt):
        apart(orders, progress=interrupt)
    assert [process.poll() is not None for process in started] == [True, True]


# --- the worker itself, here


def request(folder, quantized, **changes):
    from squeeze_export.graph.table import table_bytes

    (folder / "0.network").write_bytes(table_bytes(quantized))
    values = {
        "name": "net",
        "options": {"softmax": True},
        "orders": [{"network": "0.network", "scheme": "int8", "out": str(folder)}],
    }
    (folder / "request.json").write_text(json.dumps(values | changes))


def test_the_worker_answers_with_paths(quantized, tmp_path):
    request(tmp_path, quantized)
    main(tmp_path, "onnx")
    assert json.loads((tmp_path / "onnx.json").read_text()) == {"paths": [str(tmp_path / "net.int8.onnx")]}
    alone, _ = export(quantized, "onnx", INT8, tmp_path, name="alone", options=EmitOptions(softmax=True))
    assert (tmp_path / "net.int8.onnx").read_bytes() == alone.path.read_bytes()


def test_the_worker_answers_with_the_error(quantized, tmp_path):
    request(tmp_path, quantized, name="a/b")
    main(tmp_path, "onnx")
    answer = json.loads((tmp_path / "onnx.json").read_text())
    assert (answer["kind"], answer["hint"]) == ("BadInput", None)
