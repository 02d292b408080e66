"""TFLite Micro: the builtin kernels' answers, the arena, and files that would end the process."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeeze_export import demo
from squeeze_export.core import Artifact, EmitOptions, TensorSpec
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.quantized import FP32, INT8, INT8_NPU, scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.pipeline import calibrate, export, open_network
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes.tflite import micro
from squeeze_export.runtimes.tflite.interpreter import LITERT_BUILTIN
from squeeze_export.runtimes.tflite.micro_probe import FIRST_BYTES, STEP_BYTES, find_arena, smallest
from squeeze_export.targets import tflite

pytest.importorskip("tflite_micro")
ANY = TensorSpec("", (), "", "")
PHOTOGRAPHS = 5


@cache
def network() -> tuple[Any, dict[str, Any]]:
    """The demo network's graph and its tables."""
    opened = open_network(None)
    return opened.graph, {name: calibrate(opened, None, scheme=scheme_named(name)).quantized for name in ("int8", "int8-npu")}


def written(folder: Path, scheme: str = "int8", options: EmitOptions = EmitOptions()) -> Artifact:  # noqa: B008
    graph, tables = network()
    content = tflite.emit(tables.get(scheme, graph), scheme_named(scheme), options, {})
    return saved(folder, content, scheme)


def saved(folder: Path, content: bytes, scheme: str = "int8") -> Artifact:
    path = folder / "net.tflite"
    path.write_bytes(content)
    return Artifact(path, "tflite", scheme, "", len(content), ANY, ANY)


def drawn(count: int) -> Any:
    photos = sorted(demo.evaluation_folder().rglob("*.jpg"))[:count]
    return np.stack([load_pixels(photo, network()[0].preprocess) for photo in photos])


@pytest.mark.parametrize("scheme", [INT8.name, INT8_NPU.name, FP32.name])
def test_it_answers_as_the_builtin_kernels_and_says_what_it_is(tmp_path: Path, scheme: str) -> None:
    artifact, pixels = written(tmp_path, scheme), drawn(3)
    session = micro.open_session(artifact, device="cpu", threads=2)
    builtin = LITERT_BUILTIN.open_session(artifact, device="cpu", threads=1)
    if scheme == FP32.name:
        np.testing.assert_allclose(session.infer(pixels), builtin.infer(pixels), rtol=0, atol=1e-3)
    else:
        np.testing.assert_array_equal(session.infer(pixels), builtin.infer(pixels))
    assert (session.runtime, session.device, session.threads) == ("tflite-micro", "cpu", 1)
    assert session.evidence == "emulated"  # so that it is never timed
    assert session.placement.operator_count == builtin.placement.operator_count
    assert session.placement.float_operators == builtin.placement.float_operators
    assert "which TFLite Micro runs one by one" in session.placement.source


@pytest.mark.parametrize("network_file", ["squeezenet1_1.safetensors"])
def test_real_photographs_bit_for_bit(assets: Path, tmp_path: Path, network_file: str) -> None:
    opened = open_network(assets / "weights" / network_file)
    seen = [load_pixels(photo, opened.graph.preprocess) for photo in sorted((assets / "images" / "calib").iterdir())[:8]]
    quantized = quantize(opened.graph, np.stack(seen), FloatRunner(opened.graph), INT8)
    artifact, _ = export(quantized, "tflite", INT8, tmp_path, name="net")
    photos = sorted((assets / "images" / "eval").rglob("*.jpg"))[:PHOTOGRAPHS]
    pixels = np.stack([load_pixels(photo, opened.graph.preprocess) for photo in photos])
    session = micro.open_session(artifact, device="cpu", threads=1)
    builtin = LITERT_BUILTIN.open_session(artifact, device="cpu", threads=1)
    np.testing.assert_array_equal(session.infer(pixels), builtin.infer(pixels))
    assert len(pixels) == PHOTOGRAPHS
    assert session.facts["arena_bytes"] > 900_000  # two feature maps of conv1's size do not fit into less


def test_int8_pixels(tmp_path: Path) -> None:
    """They are 128 lower than those it is given."""
    pixels = drawn(2)
    expected = micro.open_session(written(tmp_path), device="cpu", threads=1).infer(pixels)
    artifact = written(tmp_path, "int8", EmitOptions(input_dtype="int8"))
    np.testing.assert_array_equal(micro.open_session(artifact, device="cpu", threads=1).infer(pixels), expected)
    np.testing.assert_array_equal(
        *(runtime.inner_values(artifact, ["conv1"], pixels[:1])["conv1"] for runtime in (micro, LITERT_BUILTIN))
    )


def runs_in(artifact: Artifact, arena_bytes: int) -> bool:
    """Whether TFLite Micro, in a process that may die of it, runs a file in an arena."""
    code = (
        "import sys; from pathlib import Path; from squeeze_export.runtimes.tflite.micro_probe import run_once\n"
        "run_once(Path(sys.argv[1]).read_bytes(), int(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(artifact.path), str(arena_bytes)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_arena_is_the_smallest_that_works(tmp_path: Path) -> None:
    artifact = written(tmp_path)
    found = micro.arena_of(artifact.path)
    assert runs_in(artifact, found)
    assert not runs_in(artifact, found - STEP_BYTES)


@given(st.integers(1, 1 << 24), st.integers(0, 1 << 25))
def test_the_search_finds_the_smallest_whatever_is_guessed(needed: int, guess: int) -> None:
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size >= needed

    limit = 1 << 24
    assert smallest(fits, limit, lambda: guess) == -(-needed // STEP_BYTES) * STEP_BYTES
    assert max(tried) <= limit


def test_a_good_guess_ends_the_search() -> None:
    tried: list[int] = []
    needed = 5 * FIRST_BYTES // 2
    assert smallest(lambda size: tried.append(size) or size >= needed, 1 << 28, lambda: needed) == needed  # type: ignore[func-returns-value]
    assert tried == [FIRST_BYTES, 2 * FIRST_BYTES, 4 * FIRST_BYTES, needed, needed - STEP_BYTES]


def test_nothing_fits() -> None:
    assert smallest(lambda size: False, 1 << 24) is None


def test_inner_values_are_the_builtin_kernels(tmp_path: Path) -> None:
    artifact, names = written(tmp_path), ["conv1", "fire5/concat", "fire9/squeeze1x1"]
    found = micro.inner_values(artifact, names, drawn(1))
    expected = LITERT_BUILTIN.inner_values(artifact, names, drawn(1))
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])
    with pytest.raises(Refused, match="has no tensor `conv11`"):
        micro.inner_values(artifact, ["conv11"], drawn(1))


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_root(content: bytes) -> bytes:
    return b"\xff\xff\xff\x7f" + content[4:]


def test_the_users_folder_is_no_place_to_import_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = written(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    assert micro.arena_of(artifact.path) > 0


@pytest.mark.parametrize("damage", [cut, without_root, lambda content: b"", lambda content: b"no flatbuffer"])
def test_what_ends_its_process_is_refused_here(tmp_path: Path, damage: Any) -> None:
    whole = written(tmp_path).path.read_bytes()
    with pytest.raises(Refused, match="TFLite Micro cannot open"):
        micro.open_session(saved(tmp_path, damage(whole)), device="cpu", threads=1)


def test_weights_behind_the_flatbuffer_are_refused(tmp_path: Path) -> None:
    """TFLite Micro would read them as nothing, and answer."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    artifact = written(tmp_path)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(artifact.path.read_bytes(), 0))
    buffer = max((b for b in model.buffers if b.data is not None), key=lambda b: len(b.data))
    data, buffer.data, buffer.offset, buffer.size = bytes(buffer.data), None, 16, len(buffer.data)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(Refused, match="behind the flatbuffer"):
        micro.open_session(saved(tmp_path, bytes(builder.Output()) + data), device="cpu", threads=1)


def test_misuse(tmp_path: Path) -> None:
    artifact = written(tmp_path)
    with pytest.raises(Unavailable, match="no device `npu`"):
        micro.open_session(artifact, device="npu", threads=1)
    with pytest.raises(BadInput, match="`0` threads"):
        micro.open_session(artifact, device="cpu", threads=0)
    with pytest.raises(BadInput, match="cannot be read"):
        micro.open_session(Artifact(tmp_path / "none", "tflite", "int8", "", 0, ANY, ANY), device="cpu", threads=1)
    session = micro.open_session(artifact, device="cpu", threads=1)
    with pytest.raises(ValueError, match="the file takes uint8"):
        session.infer(drawn(1)[:, :40])
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.infer(drawn(1))


def test_a_search_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "PROBE_S", 0.01)
    with pytest.raises(Refused, match=r"did not run .* within 0.01 s"):
        micro.arena_of(written(tmp_path).path)


def test_the_search_says_why_there_is_no_arena(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    answer, _ = find_arena({"path": str(written(tmp_path).path), "limit": 4096}, {})
    assert answer["reason"]
    assert capfd.readouterr() == ("", "")
