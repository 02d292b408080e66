"""Files for chips: what a compiler makes is kept with its sidecar, opened where a runtime can, and told apart from measurements."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest

from squeeze_export.compilers import Compiled
from squeeze_export.core import Placement
from squeeze_export.documents import to_json
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.pipeline import RunOptions, audit_file, bench_files, open_network, read_artifact, validate_files
from squeeze_export.pipeline.compiling import run_compiled
from squeeze_export.registry import COMPILERS, RUNTIMES
from squeeze_export.results import SCHEMA, Estimate
from squeeze_export.runtimes import runtime_named

PLACEMENT = Placement(3, 3, 1.0, (), "a fake", 3)
ESTIMATE = Estimate("Fake 1.0", {"accelerator": "big"}, 500.0, 1_000, 0.002, {"sram": 10}, {"sram": 20}, {"sram": 10.0})


@pytest.fixture
def job(job, tiny):
    """Makes a job for a compiler, on the tiny network."""
    return lambda **changes: job(**{"targets": (), "eval": tiny / "eval"} | changes)


@pytest.fixture
def fake(monkeypatch):
    """Registers a compiler `fake` whose product is the file itself; `run_on` names the runtimes that open it."""
    calls = []

    def check(chip, settings):
        if chip not in ("small", "big", "bad"):
            raise BadInput(f"no chip is called `{chip}`")
        calls.append(("check", chip))

    def compile_for(artifact, chip, settings, folder):
        assert list(folder.iterdir()) == []
        (folder / "left").write_text("behind")
        calls.append(("compile", chip, artifact.path.name))
        if chip == "bad":
            raise Refused("the toolchain said no")
        told = (None, None) if module.RUNTIMES else (PLACEMENT, ESTIMATE)
        return Compiled(artifact.path.read_bytes(), {"aim": settings.get("aim", "speed")}, *told)

    module = SimpleNamespace(
        NAME="fake",
        TARGET="tflite",
        SCHEMES=("int8",),
        SUFFIX="_fake.tflite",
        RUNTIMES=(),
        PACKAGES=("numpy",),
        CHIPS=("small", "big", "bad"),
        check=check,
        compile_for=compile_for,
    )
    monkeypatch.setitem(sys.modules, "fake_compiler", module)
    monkeypatch.setitem(COMPILERS, "fake", "fake_compiler")

    def register(run_on=()):
        module.RUNTIMES = tuple(run_on)
        return calls

    return register


def of_compiler(report):
    return [row for row in report.measurements if row.target == "fake"]


def test_what_nothing_here_runs_is_estimated(job, fake, tmp_path):
    calls = fake()
    report = run_compiled(job(bench=False), "fake", ("small", "big"), {"aim": "size"})
    assert calls == [
        ("check", "small"),
        ("check", "big"),
        ("compile", "small", "squeezenet_custom.int8.tflite"),
        ("compile", "big", "squeezenet_custom.int8.tflite"),
    ]
    assert [row.scheme for row in report.measurements] == ["fp32", "int8", "int8", "int8"]
    for chip, row in zip(("small", "big"), of_compiler(report), strict=True):
        assert row.artifact == f"squeezenet_custom.int8.{chip}_fake.tflite"
        assert (row.runtime, row.device, row.device_asked, row.evidence) == ("numpy", chip, chip, "estimated")
        assert (row.estimate, row.placement, row.accuracy, row.latency) == (ESTIMATE, PLACEMENT, None, None)
        assert row.status == "ok"
        assert row.recipe == "fast"
    assert all(row.evidence == "measured" for row in report.measurements if row.target == "tflite")
    assert SCHEMA.from_json(json.loads(json.dumps(to_json(report, "report")))) == report


def test_the_sidecar_tells_where_it_comes_from(job, fake, tmp_path):
    fake()
    run_compiled(job(bench=False, validate=False), "fake", ("big",), {"aim": "size"})
    source = read_artifact(tmp_path / "out" / "squeezenet_custom.int8.tflite")
    found = read_artifact(tmp_path / "out" / "squeezenet_custom.int8.big_fake.tflite")
    assert (found.target, found.scheme) == ("fake", "int8")
    assert (found.input, found.output) == (source.input, source.output)
    assert found.provenance["compiled_from"] == {"file": source.path.name, "sha256": source.sha256}
    assert (found.provenance["chip"], found.provenance["settings"]) == ("big", {"aim": "size"})
    assert "numpy" in found.provenance["versions"]
    assert found.provenance["checkpoint_sha256"] == source.provenance["checkpoint_sha256"]


def test_nothing_here_opens_it(job, fake, tiny, tmp_path):
    fake()
    run_compiled(job(bench=False, validate=False), "fake", ("big",))
    path = tmp_path / "out" / "squeezenet_custom.int8.big_fake.tflite"
    with pytest.raises(BadInput, match="nothing here runs fake files"):
        bench_files([path])
    with pytest.raises(BadInput, match="nothing here runs fake files"):
        validate_files([path], open_network(tiny / "tiny.safetensors"), tiny / "eval")
    with pytest.raises(BadInput, match="is a file of the compiler fake") as caught:
        audit_file(path)
    assert caught.value.hint == "audit the file that it was compiled from"
    path.write_bytes(b"another")
    with pytest.raises(BadInput, match="SHA-256 differs"):
        read_artifact(path)


def test_without_chips_the_first_is_taken(job, fake):
    fake()
    (row,) = of_compiler(run_compiled(job(bench=False, validate=False), "fake", ()))
    assert row.device == "small"


@pytest.mark.parametrize("run_on", [(), ("litert-builtin",)])
def test_one_that_fails_leaves_the_others(run_on, job, fake, tmp_path):
    fake(run_on)
    report = run_compiled(job(bench=False), "fake", ("small", "bad", "big"))
    assert [(row.status, row.reason) for row in of_compiler(report)] == [
        ("ok", ""),
        ("failed", "the toolchain said no"),
        ("ok", ""),
    ]
    assert of_compiler(report)[1].device_asked == "bad"
    assert not list((tmp_path / "out").glob("*.bad_*"))


def test_a_single_one_that_fails_raises(job, fake):
    fake()
    with pytest.raises(Refused, match="the toolchain said no"):
        run_compiled(job(bench=False, validate=False), "fake", ("bad",))


def test_what_is_known_to_fail_is_refused_before_any_work(job, fake, tmp_path):
    calls = fake(("litert-builtin",))
    with pytest.raises(BadInput, match="no chip is called `huge`"):
        run_compiled(job(), "fake", ("small", "huge"))
    with pytest.raises(BadInput, match="fake does not take the scheme `fp16`"):
        run_compiled(job(scheme="fp16"), "fake", ("small",))
    with pytest.raises(BadInput, match="no compiler is called `gcc`"):
        run_compiled(job(), "gcc", ("small",))
    with pytest.raises(BadInput, match="the runtime `onnxruntime` does not open fake files"):
        run_compiled(job(run=RunOptions(runtime="onnxruntime")), "fake", ("small",))
    with pytest.raises(Unavailable, match="`litert-builtin` has no device `npu`"):
        run_compiled(job(run=RunOptions(device="npu")), "fake", ("small",))
    assert {name for name, *_ in calls} == {"check"}
    assert not (tmp_path / "out").exists()


# --- a compiler with a runtime


def test_what_a_runtime_opens_is_compared_and_timed(job, fake):
    fake(("litert-builtin",))
    report = run_compiled(job(), "fake", ("small",))
    (row,) = of_compiler(report)
    assert (row.runtime, row.device, row.evidence, row.estimate) == ("litert-builtin", "cpu", "measured", None)
    assert row.accuracy.count == 8
    assert row.latency is not None
    assert row.facts["compiled_for"] == "small"
    assert row.facts["aim"] == "speed"
    assert report.measurements[1].runtime == "litert"


def test_an_emulator_is_compared_on_its_images_and_never_timed(job, fake, monkeypatch):
    class Emulated:
        def __init__(self, session):
            self.session, self.evidence = session, "emulated"

        def __getattr__(self, name):
            return getattr(self.session, name)

    def open_session(artifact, *, device, threads):
        assert (artifact.target, device) == ("fake", "htp")
        plain = dataclasses.replace(artifact, target="tflite")
        return Emulated(runtime_named("litert-builtin").open_session(plain, device="cpu", threads=threads))

    emulator = SimpleNamespace(
        NAME="emulator", check_device=lambda device: None, open_session=open_session, devices=lambda: ("htp",)
    )
    monkeypatch.setitem(sys.modules, "fake_emulator", emulator)
    monkeypatch.setitem(RUNTIMES, "emulator", "fake_emulator")
    fake(("emulator",))
    report = run_compiled(job(run=RunOptions(rounds=2, emulated_images=4, device="htp")), "fake", ("small", "big"))
    for row in of_compiler(report):
        assert (row.evidence, row.latency, row.device_asked) == ("emulated", None, "htp")
        assert row.accuracy.count == 4
    base = [row for row in report.measurements if row.target == "tflite"]
    assert all((row.device_asked, row.accuracy.count) == ("cpu", 8) and row.latency for row in base)


def test_neither_compared_nor_timed(job, fake):
    fake(("litert-builtin",))
    (row,) = of_compiler(run_compiled(job(validate=False, bench=False), "fake", ("small",)))
    assert (row.device, row.accuracy, row.latency, row.placement) == ("", None, None, None)


def test_a_runtime_of_the_format_is_for_the_file_that_is_compiled(job, fake):
    fake(("litert-builtin",))
    report = run_compiled(job(bench=False, run=RunOptions(runtime="litert")), "fake", ("small",))
    assert [row.runtime for row in report.measurements] == ["litert", "litert", "litert-builtin"]


# --- Vela


def test_ethosu_compares_on_the_kernels_that_its_chips_follow(job):
    pytest.importorskip("ethosu", reason="Vela is not installed")
    report = run_compiled(job(scheme="int8-npu", bench=False), "ethosu", ("ethos-u55-128",))
    assert [row.runtime for row in report.measurements] == ["litert-builtin", "litert-builtin", "ethos-u-vela"]
    row = report.measurements[-1]
    assert (row.evidence, row.device) == ("estimated", "ethos-u55-128")
    assert row.placement.device_count == row.placement.operator_count
    assert "ethos-u-vela" in report.tool_versions
