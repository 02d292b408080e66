"""`verify`: what is as it was is said part by part, every change is found and named, and nothing changed is ever run."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput, NotInstalled
from squeeze_export.files import read_content
from squeeze_export.formats import format_named
from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.pipeline import calibrate, export, open_network, read_artifact, verifying, write_table
from squeeze_export.pipeline.export import keep_compiled
from squeeze_export.pipeline.sidecar_document import read_sidecar, sidecar_bytes, sidecar_path
from squeeze_export.pipeline.verifying import verify
from squeeze_export.registry import TARGETS
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named

PARTS = ("sidecar", "bytes", "inputs and outputs", "metadata", "proof of INT8")


@pytest.fixture(scope="session")
def products(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an int8 file of every target, an fp32 one, and a table. Not to be changed."""
    folder = tmp_path_factory.mktemp("products")
    network = open_network(tiny / "tiny.safetensors", labels=tiny / "labels.txt")
    calibration = calibrate(network, tiny / "calib")
    for target in TARGETS:
        export(calibration.quantized, target, INT8, folder, name="net")
    export(network.graph, "tflite", FP32, folder, name="net")
    write_table(calibration, folder / "net.int8.table")
    return folder


@pytest.fixture
def folder(products: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(products, tmp_path / "out"))


def flip(file: Path, place: int, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << bit
    file.write_bytes(data)


def reseal(path: Path, **changes: object) -> None:
    """Another sidecar, with a checksum that fits."""
    sidecar_path(path).write_bytes(sidecar_bytes(replace(read_sidecar(sidecar_path(path)), **changes)))


def test_everything_of_a_folder_is_verified(products):
    found = verify(products)
    suffixes = sorted(f"net.int8{target_named(target).SUFFIX}" for target in TARGETS)
    table = next(products.glob("*.table")).name
    assert [Path(one.file).name for one in found] == sorted([*suffixes, "net.fp32.tflite", table])
    for one in found:
        assert (one.differences, one.unchecked, one.lacks) == ((), (), ())
        if one.file.endswith(".table"):
            assert one.checked == ("checksum of the arrays", "checksum of the header", "bytes")
        elif "fp32" in one.file:
            assert one.checked[-2] == "audit"
        else:
            assert one.checked[:-1] == PARTS
            assert one.checked[-1].startswith("golden outputs (")


@pytest.mark.parametrize("options", [{"softmax": True}, {"sigmoid": True}, {"batch": "dynamic"}, {"input_dtype": "float32"}])
def test_other_outer_forms_answer_as_they_must(options, quantized, tmp_path):
    for target in ("onnx", "tflite"):
        artifact, _ = export(quantized, target, INT8, tmp_path, name="net", options=EmitOptions(**options))
        (found,) = verify(artifact.path)
        assert (found.differences, len(found.checked)) == ((), 6)


# --- changed bytes


def stored_weights(path: Path, target: str) -> tuple[Path, int, str]:
    """Where the weights of conv10 are in a file or folder: the file, the place of a byte, the name."""
    contents = format_named(target).read(path)
    tensor = next(
        one for one in contents.constants if one.name.startswith("conv10") and one.dtype == "int8" and one.size_bytes >= 80
    )
    data = tensor.load()
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    (file,) = [file for file in files if data in file.read_bytes()]
    return file, file.read_bytes().index(data) + len(data) // 2, tensor.name


@pytest.mark.parametrize("target", TARGETS)
def test_a_flipped_bit_of_a_weight_is_named(target, folder):
    path = folder / f"net.int8{target_named(target).SUFFIX}"
    file, place, name = stored_weights(path, target)
    flip(file, place)
    (found,) = verify(path)
    assert len(found.differences) == 1
    assert f"`{path.name}`: its bytes differ from the sidecar's SHA-256: bytes " in found.differences[0]
    # Core AI's parser may end its process, so a program that is not what its hash says is not read again.
    assert ("its `main.hash` is not the SHA-256" if target == "coreai" else f"the constant `{name}`") in found.differences[0]
    first = place // 65536 * 65536
    assert f"bytes {first:,} to " in found.differences[0]
    if path.is_dir():
        assert f" of `{file.relative_to(path).as_posix()}`" in found.differences[0]
    assert found.checked == ("sidecar",)


def test_any_flipped_bit_is_found(folder):
    """In the files of every product, and their sidecars; `benchmarks/bit_flips.py` does more of it."""
    draw = np.random.default_rng(3)
    for product in sorted(folder.iterdir()):
        if product.name.endswith(".json"):
            continue
        files = [product] if product.is_file() else sorted(file for file in product.rglob("*") if file.is_file())
        if not product.name.endswith(".table"):
            files.append(sidecar_path(product))
        for file in files:
            for _ in range(3):
                place, bit = int(draw.integers(file.stat().st_size)), int(draw.integers(8))
                flip(file, place, bit)
                (found,) = verify(product)
                assert found.differences, (file, place, bit)
                flip(file, place, bit)


def test_a_changed_file_is_never_run(folder, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(verifying, "runtime_named", lambda name: opened.append(name) or runtime_named(name))
    path = folder / "net.int8.tflite"
    assert verify(path)[0].differences == ()
    assert opened == ["litert"]
    flip(path, 2000)
    assert verify(path)[0].differences
    assert opened == ["litert"]


def test_files_that_come_and_go_in_a_folder_are_named(folder):
    path = folder / "net.int8.openvino"
    names = sorted(read_content(path))
    (path / "more.txt").write_text("more")
    (path / names[-1]).unlink()
    (found,) = verify(path)
    assert "`more.txt` is new" in found.differences[0]
    assert f"`{names[-1]}` is not there" in found.differences[0]


def test_a_longer_file_is_named(folder):
    path = folder / "net.int8.onnx"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\0")
    assert f"it has {size + 1:,} bytes instead of {size:,}" in verify(path)[0].differences[0]


# --- a sidecar that tells something else, with a checksum that fits


def test_metadata_that_tell_something_else(folder):
    path = folder / "net.int8.tflite"
    told = read_sidecar(sidecar_path(path)).provenance
    reseal(path, provenance={**told, "checkpoint_sha256": "0" * 64})
    (found,) = verify(path)
    assert found.differences == (
        "`net.int8.tflite`: its metadata `squeeze_export.checkpoint_sha256` is not what the sidecar tells",
    )


def test_a_float_file_that_claims_to_be_int8(folder):
    path = folder / "net.fp32.tflite"
    reseal(path, scheme="int8")
    assert any("it is not the integer network it claims to be: no convolution" in line for line in verify(path)[0].differences)


def test_an_audit_and_inputs_that_are_others(folder):
    path = folder / "net.int8.onnx"
    sidecar = read_sidecar(sidecar_path(path))
    assert sidecar.audit is not None
    reseal(path, audit=replace(sidecar.audit, operators={"Conv": 1}), input=replace(sidecar.input, name="pixels"))
    lines = verify(path)[0].differences
    assert any("`operators` is" in line for line in lines)
    assert any("`input` is" in line for line in lines)


def test_other_answers_are_told_with_class_and_runtime(folder):
    path = folder / "net.int8.tflite"
    other = read_sidecar(sidecar_path(folder / "net.fp32.tflite")).golden
    assert other is not None
    reseal(path, golden=replace(other, tolerance=1e-6))
    (line,) = verify(path)[0].differences
    assert line.startswith("`net.int8.tflite`: its golden outputs differ by up to ")
    assert "(1e-06 allowed), in class " in line
    assert " on litert, " in line


@pytest.mark.parametrize(
    ("change", "why"),
    [({"pixels_sha256": "0" * 64}, "the pixels of its golden outputs are others"), ({"logits": "AAAA"}, "golden logits")],
)
def test_golden_outputs_that_cannot_be(change, why, folder):
    path = folder / "net.int8.tflite"
    told = read_sidecar(sidecar_path(path)).golden
    assert told is not None
    reseal(path, golden=replace(told, **change))
    assert why in verify(path)[0].differences[0]


# --- what is not there


def test_without_its_runtime_the_rest_is_checked(folder, monkeypatch):
    def absent(name):
        raise NotInstalled(f"`{name}` is not installed")

    monkeypatch.setattr(verifying, "runtime_named", absent)
    (found,) = verify(folder / "net.int8.tflite")
    assert (found.checked, found.differences) == (PARTS, ())
    assert found.unchecked == ("golden outputs: `litert` is not installed",)


@pytest.mark.parametrize(
    ("target", "needed"), [("tflite", ()), ("openvino", ("openvino",)), ("coreml", ()), ("onnx", ("onnx", "onnxruntime"))]
)
def test_nothing_but_the_files_runtime_is_needed(target, needed, folder, monkeypatch):
    others = {"torch", "tensorflow", "onnx", "onnxruntime", "openvino", "coremltools", "nncf", "PIL", "rich"}
    for name in others - set(needed):
        monkeypatch.setitem(sys.modules, name, None)
    (found,) = verify(folder / f"net.int8{target_named(target).SUFFIX}")
    assert (found.checked[:-1], found.differences, found.unchecked) == (PARTS, (), ())


def test_an_onnx_file_without_the_package_that_reads_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (found,) = verify(folder / "net.int8.onnx")
    assert (found.checked[:2], found.differences) == (("sidecar", "bytes"), ())
    assert found.checked[2].startswith("golden outputs (onnxruntime")
    assert found.unchecked[0].startswith("what is inside: `onnx` is not installed")


def test_products_and_sidecars_alone_are_named(folder):
    sidecar_path(folder / "net.int8.onnx").unlink()
    (folder / "net.int8.tflite").unlink()
    lines = {Path(one.file).name: one.differences for one in verify(folder) if one.differences}
    assert lines == {
        "net.int8.onnx": ("`net.int8.onnx` has no sidecar `net.int8.onnx.json`",),
        "net.int8.tflite.json": ("`net.int8.tflite.json` is the sidecar of `net.int8.tflite`, which is not there",),
    }
    with pytest.raises(BadInput, match="has no sidecar"):
        verify(folder / "net.int8.onnx")


def test_one_of_an_earlier_version_is_compared_as_far_as_it_goes(folder):
    path = folder / "net.int8.tflite"
    values = json.loads(sidecar_path(path).read_text())
    for name in ("schema_version", "checksum", "pieces", "constants", "golden"):
        del values[name]
    sidecar_path(path).write_text(json.dumps(values))
    (found,) = verify(path)
    assert (found.differences, found.checked) == ((), PARTS[1:])
    assert len(found.lacks) == 2
    flip(path, 2000)
    assert verify(path)[0].differences == ("`net.int8.tflite`: its bytes differ from the sidecar's SHA-256",)


def test_a_compiled_file_is_compared_by_its_bytes(folder):
    source = replace(read_artifact(folder / "net.int8.tflite"), provenance={"a": 1})
    artifact = keep_compiled(b"chip", folder / "net_vela.tflite", source, "ethosu", {})
    (found,) = verify(artifact.path)
    assert (found.checked, found.differences) == (("sidecar", "bytes"), ())
    assert "made for a chip" in found.lacks[0]
    artifact.path.write_bytes(b"chop")
    assert verify(artifact.path)[0].differences


@pytest.mark.parametrize(("name", "why"), [("none", "does not exist"), ("labels.txt", "is no file that this tool writes")])
def test_bad_input(name, why, tiny):
    with pytest.raises(BadInput, match=why):
        verify(tiny / name)
    with pytest.raises(BadInput, match="holds nothing that this tool writes"):
        verify(tiny / "calib")
