"""Files: written with their sidecars, proven before they get their names, opened again only if unchanged."""

import dataclasses
import importlib
import json
import os

import pytest

from squeeze_export import __version__
from squeeze_export.core import Audit, EmitOptions
from squeeze_export.errors import BadInput, Refused
from squeeze_export.files import content_sha256, content_size, read_content
from squeeze_export.graph.quantized import FP16, FP32, INT8, Scheme
from squeeze_export.pipeline import audit_file, calibrate, export, open_network, read_artifact, sidecar_document
from squeeze_export.registry import TARGETS
from squeeze_export.targets import target_named


@pytest.fixture(scope="module")
def network(tiny):
    """The tiny network, with labels."""
    return open_network(tiny / "tiny.safetensors", labels=tiny / "labels.txt")


@pytest.fixture(scope="module")
def quantized(network, tiny):
    """Its integers."""
    return calibrate(network, tiny / "calib").quantized


@pytest.fixture(params=TARGETS)
def target(request):
    """Each target's name."""
    return request.param


@pytest.fixture
def source(network, quantized):
    """What to export in a scheme."""
    return {"fp32": network.graph, "fp16": network.graph, "int8": quantized}


@pytest.mark.parametrize("scheme", [FP32, FP16, INT8], ids=lambda scheme: scheme.name)
def test_a_file_reads_back_as_the_artifact_that_was_returned(target, scheme, source, tmp_path):
    artifact, audit = export(source[scheme.name], target, scheme, tmp_path, name="net")
    assert artifact.path == tmp_path / f"net.{scheme.name}{target_named(target).SUFFIX}"
    content = read_content(artifact.path)
    assert (artifact.sha256, artifact.size_bytes) == (content_sha256(content), content_size(content))
    stored = json.loads(json.dumps(artifact.provenance))  # tuples become lists
    assert read_artifact(artifact.path) == dataclasses.replace(artifact, provenance=stored)
    assert audit.violations == ()
    found = audit_file(artifact.path)
    assert dataclasses.replace(found, violations=()) == audit
    assert bool(found.violations) != scheme.integer


def test_the_same_integers_give_the_same_bytes(target, quantized, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (export(quantized, target, INT8, tmp_path / name, name="net")[0] for name in ("one", "two"))
    assert read_content(one.path) == read_content(two.path)


def test_provenance(target, quantized, network, tmp_path):
    artifact, _ = export(quantized, target, INT8, tmp_path, name="net")
    told = artifact.provenance
    assert told["checkpoint_sha256"] == network.graph.checkpoint_sha256
    assert (told["table_sha256"], told["recipe"], told["seed"], told["scheme"]) == (quantized.sha256, "fast", 0, "int8")
    assert told["versions"]["squeeze-export"] == __version__
    assert len(told["versions"]) > 1
    assert told["preprocess"]["crop_px"] == 32
    float_file, _ = export(network.graph, target, FP32, tmp_path, name="net")
    assert "table_sha256" not in float_file.provenance


def test_the_sidecar_tells_what_an_app_needs(target, quantized, tmp_path):
    artifact, _ = export(quantized, target, INT8, tmp_path, name="net", options=EmitOptions(2, "float32", softmax=True))
    values = json.loads((tmp_path / f"{artifact.path.name}.json").read_text(encoding="utf-8"))
    assert values["file"] == artifact.path.name
    assert values["labels"] == ["ant", "bee", "cat", "dog", "eel"]
    assert (values["input"]["shape"], values["output"]["name"]) == ([2, 32, 32, 3], "probabilities")
    assert values["audit"]["violations"] == []


@pytest.mark.parametrize("name", ["../net", "a/b", "", ".", "n\x1b[2J", "a\nb"])
def test_names_that_are_no_file_name(name, network, tmp_path):
    with pytest.raises(BadInput, match="is no file name"):
        export(network.graph, "onnx", FP32, tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_scheme_that_the_target_does_not_carry(target, network, tmp_path):
    with pytest.raises(BadInput, match=f"{target} does not carry the scheme `int3`") as caught:
        export(network.graph, target, Scheme("int3"), tmp_path, name="net")
    assert str(caught.value.hint).startswith("it carries: fp32")


@pytest.mark.parametrize(("scheme", "kind"), [("int8", "fp32"), ("fp32", "int8")])
def test_the_graph_must_fit_the_scheme(scheme, kind, source, tmp_path):
    with pytest.raises(BadInput, match=f"the scheme `{scheme}` needs a "):
        export(source[kind], "onnx", {"int8": INT8, "fp32": FP32}[scheme], tmp_path, name="net")


def test_an_unknown_target(network, tmp_path):
    with pytest.raises(BadInput, match="no target is called `caffe`"):
        export(network.graph, "caffe", FP32, tmp_path, name="net")


def test_a_file_that_fails_its_audit_never_appears(target, quantized, tmp_path, monkeypatch):
    def audit(name, path):
        return Audit({}, (), (), ("Conv conv1 is float", "Conv conv10 is float"), {})

    monkeypatch.setattr(importlib.import_module("squeeze_export.pipeline.export"), "audited", audit)
    with pytest.raises(Refused) as caught:
        export(quantized, target, INT8, tmp_path, name="net")
    assert caught.value.message == (
        f"the {target} file is not the integer network it claims to be: Conv conv1 is float (and `1` more)"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nth", [1, 2])
def test_an_interrupt_leaves_no_file_alone(nth, network, tmp_path, monkeypatch):
    """Neither the file without its sidecar, nor a temporary one."""
    calls = []

    def replace(source, target, original=os.replace):
        calls.append(target)
        if len(calls) == nth:
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        export(network.graph, "onnx", FP32, tmp_path, name="net")
    assert list(tmp_path.iterdir()) == []


# --- read_artifact


@pytest.fixture
def artifact(network, tmp_path):
    """An fp32 ONNX file."""
    return export(network.graph, "onnx", FP32, tmp_path, name="net")[0]


def test_a_changed_file_is_refused(artifact):
    artifact.path.write_bytes(artifact.path.read_bytes()[:-1])
    with pytest.raises(BadInput, match="SHA-256 differs"):
        read_artifact(artifact.path)


def test_missing_files_are_named(artifact, tmp_path):
    artifact.path.unlink()
    with pytest.raises(BadInput, match=r"net.fp32.onnx` cannot be read: No such file"):
        read_artifact(artifact.path)
    with pytest.raises(BadInput, match=r"nothere.onnx.json` cannot be read: No such file"):
        read_artifact(tmp_path / "nothere.onnx")


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values | {"target": "caffe"},
        lambda values: values | {"input": {"name": "input"}},
        lambda values: values | {"provenance": 3},
        lambda values: {key: value for key, value in values.items() if key != "scheme"},
        lambda values: [values],
    ],
)
def test_damaged_sidecars(damage, artifact):
    sidecar = artifact.path.with_name("net.fp32.onnx.json")
    sidecar.write_text(json.dumps(damage(json.loads(sidecar.read_text()))))
    with pytest.raises(BadInput, match="is damaged"):
        read_artifact(artifact.path)


def test_sidecars_are_bounded(artifact, monkeypatch):
    monkeypatch.setattr(sidecar_document, "MAX_SIDECAR_BYTES", 10)
    with pytest.raises(BadInput, match="is larger than"):
        read_artifact(artifact.path)


# --- audit_file


def test_audit_goes_by_the_ending(tmp_path):
    with pytest.raises(BadInput, match="is no file of a target") as caught:
        audit_file(tmp_path / "net.pb")
    assert caught.value.hint == "endings that are: .onnx, .tflite, .openvino, .mlpackage, .aimodel, .xml, .mlmodel"
    with pytest.raises(BadInput, match=r"nothere.tflite` is not a file"):
        audit_file(tmp_path / "nothere.tflite")


def test_an_openvino_model_of_another_tool_is_audited_by_its_xml(quantized, tmp_path):
    artifact, audit = export(quantized, "openvino", INT8, tmp_path, name="net")
    assert audit_file(artifact.path / "model.xml") == audit
    with pytest.raises(BadInput, match=r"nothere.xml` is not a file"):
        audit_file(tmp_path / "nothere.xml")
