"""Core AI assets: run by Apple's own interpreter, read back from the file, and compared with the exact integer run and the table.

All of it needs `coreai-core`, and skips where it is not installed. No Apple device was used.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import pytest

from squeeze_export.core import Artifact, EmitOptions, Session
from squeeze_export.errors import BadInput, Refused
from squeeze_export.files import read_content, write_draft
from squeeze_export.formats import audited
from squeeze_export.formats.audit import audit as run_audit
from squeeze_export.formats.contents import Contents, FileOperator, FileTensor
from squeeze_export.formats.coreai import POLICY, read
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import MaxPool, QuantizedConv
from squeeze_export.graph.quantized import INT8, QuantizedGraph, requantization, scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.measure.accuracy import compare
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.pipeline import audit_file, lint_file
from squeeze_export.pipeline.export import export
from squeeze_export.pipeline.foreign import foreign_artifact
from squeeze_export.quant.mixed import keep_float
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes import coreai as runtime
from squeeze_export.targets import coreai
from squeeze_export.targets.coreai.asset import asset_files
from tests.contract.conftest import net

pytestmark = pytest.mark.skipif(find_spec("coreai") is None, reason="`coreai-core` is not installed")

Asset = Mapping[str, bytes]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An int8 file in the exact form. Not to be changed."""
    return export(net().quantized, "coreai", INT8, tmp_path_factory.mktemp("exact"), name="net")[0]


def emitted(network: Any, scheme: str = "int8", **options: Any) -> dict[str, bytes]:
    return coreai.emit(network, scheme_named(scheme), EmitOptions(**options), {})


@contextmanager
def opened(artifact: Artifact) -> Iterator[Session]:
    session = runtime.open_session(artifact, device="cpu", threads=1)
    try:
        yield session
    finally:
        session.close()


def changed(artifact: Artifact, folder: Path, *, keep_hash: bool = False, **files: bytes) -> Path:
    """A copy with other files, `main_mlirb=...`; its hash fits unless `keep_hash`."""
    content = read_content(artifact.path)
    assert isinstance(content, dict)
    content |= {name.replace("_", "."): data for name, data in files.items()}
    if not keep_hash:
        content["main.hash"] = hashlib.sha256(content["main.mlirb"]).digest()
    path = folder / "changed.aimodel"
    write_draft(path, content)
    return path


def constant(contents: Contents, name: str, dtype: Any) -> Any:
    tensor: FileTensor = next(tensor for tensor in contents.constants if tensor.name == name)
    return np.frombuffer(tensor.load(), dtype).reshape(tensor.shape)


def differences(contents: Contents, table: QuantizedGraph, *, is_exact: bool) -> list[str]:
    """What the file's integers are not those of the table in: weights, scales or factors, and biases."""
    found = []
    for conv in table.convs:
        steps = constant(contents, f"{conv.name}/weight", np.int8)
        bias = constant(contents, f"{conv.name}/bias", np.float32).ravel()
        if is_exact:
            scales = constant(contents, f"{conv.name}/factor", np.float32).ravel()
            wanted, recovered = requantization(conv, table.tensors), bias
        else:
            scales = constant(contents, f"{conv.name}/weight_scale", np.float32).ravel()
            before = 1.0 if conv.input == table.input.name else table.tensors[conv.input].scale
            wanted, recovered = conv.weight_scale, np.rint(bias / (before * scales.astype(np.float64)))
        found += [f"{conv.name} weight"] * (not np.array_equal(steps, conv.weight))
        found += [f"{conv.name} scale"] * (not np.array_equal(scales, wanted))
        found += [f"{conv.name} bias"] * (not np.array_equal(recovered, conv.bias.astype(np.float32)))
    return found


def test_the_exact_form_gives_the_integer_runs_logits_bit_for_bit(exact: Artifact) -> None:
    with opened(exact) as session:
        np.testing.assert_array_equal(session.infer(net().pixels), net().integers)
        assert session.evidence == "emulated"
        assert session.placement is not None
        assert session.placement.fallbacks == ()


def test_a_change_of_one_weight_is_seen_in_the_logits(exact: Artifact, tmp_path: Path) -> None:
    table = net().quantized
    last = table.convs[-1]
    weight = last.weight.copy()
    weight[3] = -weight[3]
    nodes = tuple(replace(node, weight=weight) if node is last else node for node in table.nodes)
    artifact, _ = export(replace(table, nodes=nodes), "coreai", INT8, tmp_path, name="other")
    with opened(artifact) as session:
        assert not np.array_equal(session.infer(net().pixels[:2]), net().integers[:2])


@pytest.mark.parametrize("form", ["exact", "qdq"])
def test_every_integer_of_the_table_is_read_back(form: str, tmp_path: Path) -> None:
    table = net().quantized
    artifact, audit = export(table, "coreai", INT8, tmp_path, name="net", options=EmitOptions(coreai_form=form))  # type: ignore[arg-type]
    assert audit.violations == ()
    contents = read(artifact.path)
    large = [conv.name for conv in table.convs if np.abs(conv.bias.astype(np.int64)).max() >= 2**24]  # of dead filters
    found = differences(contents, table, is_exact=form == "exact")
    assert found == [] or (form == "qdq" and set(found) <= {f"{name} bias" for name in large})
    assert [operator.name for operator in contents.operators if operator.kind == "conv2d"] == [conv.name for conv in table.convs]


def test_a_flipped_weight_is_read_back_too(exact: Artifact, tmp_path: Path) -> None:
    table = net().quantized
    program = bytearray((exact.path / "main.mlirb").read_bytes())
    wanted = table.convs[5].weight.tobytes()
    assert program.count(wanted) == 1
    program[program.index(wanted) + 7] ^= 1
    path = changed(exact, tmp_path, main_mlirb=bytes(program))
    assert differences(read(path), table, is_exact=True) == [f"{table.convs[5].name} weight"]


def test_another_hash_is_refused_before_anything_is_parsed(
    exact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = bytearray((exact.path / "main.mlirb").read_bytes())
    program[len(program) // 2] ^= 1
    path = changed(exact, tmp_path, keep_hash=True, main_mlirb=bytes(program))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("squeeze_export.formats.coreai.Worker.ask", never)
    monkeypatch.setattr(runtime, "Worker", never)
    with pytest.raises(BadInput, match=r"main\.hash"):
        read(path)
    with pytest.raises(Refused, match=r"main\.hash"):
        runtime.open_session(replace(exact, path=path), device="cpu", threads=1)


def test_a_truncated_program_with_a_hash_that_fits_ends_the_child_alone(exact: Artifact, tmp_path: Path) -> None:
    program = (exact.path / "main.mlirb").read_bytes()
    path = changed(exact, tmp_path, main_mlirb=program[: len(program) // 3])
    with pytest.raises(BadInput, match="no Core AI asset"):
        read(path)
    with pytest.raises(Refused):
        runtime.open_session(replace(exact, path=path), device="cpu", threads=1)


def test_a_file_of_floats_that_says_it_is_int8_is_found(tmp_path: Path) -> None:
    path = tmp_path / "float.aimodel"
    write_draft(path, emitted(net().graph, "w8"))
    found = audited("coreai", path).violations
    assert "no convolution computes in integers: weight-only quantization (int8 in 26 of 26 products)" in found


def test_a_pool_of_another_size_than_its_window_makes_is_found(tmp_path: Path) -> None:
    """Core AI itself believes it."""
    network = replace(net().graph)
    pool = next(node.name for node in network.nodes if isinstance(node, MaxPool))
    height, width, channels = network.sizes[pool]
    vars(network)["sizes"] = {**network.sizes, pool: (height - 1, width, channels)}
    path = tmp_path / "pool.aimodel"
    write_draft(path, emitted(network, "fp32"))
    with pytest.raises(BadInput, match=f"the result of max_pool_2d `{pool}` has a side of {height - 1}, its window makes {height}"):
        read(path)


def test_a_program_without_a_convolution_proves_nothing(tmp_path: Path) -> None:
    ai = importlib.import_module("coreai.authoring")
    pixels = Annotated[ai.Value, ai.TensorType((1, 4), np.float32)]
    module = ai.Module.create()

    def program(x: pixels) -> Annotated[ai.Value, ai.TensorType((1, 4), np.float32, name="logits")]:  # type: ignore[valid-type]
        return ai.relu(x)

    program.__annotations__ = get_type_hints(program, localns=locals(), include_extras=True)
    with module:
        ai.graph(program, provided_name="main")
    path = tmp_path / "empty.aimodel"
    write_draft(path, asset_files(module, {}, author="", description=""))
    assert "the file holds no convolution" in audited("coreai", path).violations


def test_a_layer_in_float_that_the_file_does_not_declare_is_found(tmp_path: Path) -> None:
    kept = net().quantized.convs[3].name
    path = tmp_path / "mixed.aimodel"
    write_draft(path, emitted(keep_float(net().graph, net().quantized, [kept])))
    found = audited("coreai", path).violations
    assert any(violation.startswith(f"conv2d `{kept}` computes in float: ") for violation in found)


def test_the_neural_engine_takes_the_forms_in_float16(tmp_path: Path, exact: Artifact) -> None:
    half = EmitOptions(coreai_form="qdq", coreai_compute="float16")
    files = [
        export(net().quantized, "coreai", INT8, tmp_path, name="qdq", options=half)[0],
        export(net().graph, "coreai", scheme_named("fp16"), tmp_path, name="half")[0],
    ]
    for file in files:
        assert {finding.severity for finding in lint_file(file.path, "coreai-ane")} == {"note"}
    fallen = [finding for finding in lint_file(exact.path, "coreai-ane") if finding.severity == "fall-back"]
    assert sum("conv2d" in finding.operator for finding in fallen) == 26
    assert all("is float32" in finding.problem for finding in fallen)


_WRITE = """
import hashlib
from tests.targets.test_coreai_target import emitted
from tests.contract.conftest import net
print(hashlib.sha256(b"".join(data for _, data in sorted(emitted(net().quantized).items()))).hexdigest())
"""


def test_another_process_in_another_folder_writes_the_same_bytes(tmp_path: Path) -> None:
    """One process would not tell: Core AI names constants after addresses."""
    here = hashlib.sha256(b"".join(data for _, data in sorted(emitted(net().quantized).items()))).hexdigest()
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r})\n{_WRITE}"
    there = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert there.strip() == here


def test_a_thousand_labels_with_quotes_and_accents_round_trip(tmp_path: Path) -> None:
    labels = tuple(f'étiquette "{index}" \\ 犬' for index in range(1000))
    path = tmp_path / "labels.aimodel"
    write_draft(path, coreai.emit(replace(net().graph, labels=labels), scheme_named("fp32"), EmitOptions(), {"key": 'a "b"'}))
    told = read(path).metadata
    assert tuple(json.loads(told["labels"])) == labels
    assert told["key"] == 'a "b"'


def test_sums_beyond_float32_are_refused_in_the_exact_form() -> None:
    table = net().quantized
    conv = next(conv for conv in table.convs if conv.kernel == (3, 3) and conv.weight[0].size * 127 * 255 >= 2**24)
    full = replace(conv, weight=np.full_like(conv.weight, 127))
    large = replace(table, nodes=tuple(full if node is conv else node for node in table.nodes))
    with pytest.raises(Refused, match=f"the sums of `{conv.name}`"):
        emitted(large)
    assert emitted(large, coreai_form="qdq")


def test_a_bias_that_float32_does_not_hold_is_refused_in_the_exact_form() -> None:
    table = net().quantized
    conv = table.convs[3]
    odd: QuantizedConv = replace(conv, bias=np.full_like(conv.bias, 2**24 + 1))
    with pytest.raises(Refused, match=f"the sums of `{conv.name}`"):
        emitted(replace(table, nodes=tuple(odd if node is conv else node for node in table.nodes)))


def test_the_exact_form_is_refused_in_float16() -> None:
    with pytest.raises(BadInput, match="float16 cannot hold") as caught:
        emitted(net().quantized, coreai_compute="float16")
    assert caught.value.hint is not None
    assert "--coreai-form qdq" in caught.value.hint


def test_a_scale_that_float16_reads_wrongly_is_refused() -> None:
    table = net().quantized
    name = table.convs[2].name
    small = {**table.tensors, name: replace(table.tensors[name], scale=2.0**-15)}
    with pytest.raises(Refused, match=f"the scale of `{name}`"):
        emitted(replace(table, tensors=small), coreai_form="qdq", coreai_compute="float16")


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes by /proc")
def test_sessions_one_after_the_other_share_a_process_unless_it_broke(exact: Artifact, tmp_path: Path) -> None:
    with opened(exact) as session:
        first = session.infer(net().pixels[:1])
    other, _ = export(net().graph, "coreai", scheme_named("fp32"), tmp_path, name="float")
    started = children()
    with opened(other) as session:
        floats = session.infer(net().pixels[:1])
    with opened(exact) as one, opened(exact) as second:  # at once: two processes
        np.testing.assert_array_equal(one.infer(net().pixels[:1]), first)
        np.testing.assert_array_equal(second.infer(net().pixels[:1]), first)
        assert len(children() - started) == 1
    assert not np.array_equal(floats, first)
    program = (exact.path / "main.mlirb").read_bytes()
    broken = changed(exact, tmp_path, main_mlirb=program[: len(program) // 3])
    with pytest.raises(Refused):
        runtime.open_session(replace(exact, path=broken), device="cpu", threads=1)
    with opened(exact) as session:
        np.testing.assert_array_equal(session.infer(net().pixels[:1]), first)


def children() -> set[int]:
    """Processes that this one has started and that still run."""
    return {int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_a_float_file_gives_the_references_logits(tmp_path: Path) -> None:
    artifact, _ = export(net().graph, "coreai", scheme_named("fp32"), tmp_path, name="float")
    with opened(artifact) as session:
        logits = session.infer(net().pixels)
    assert compare(FloatRunner(net().graph)(net().pixels), logits).sqnr_db > 100


def test_very_many_operators_one_behind_the_other_are_bad_input() -> None:
    """They are looked through one by one, and a file may hold more than Python nests calls."""
    kind = "broadcasting_add"
    row = FileTensor("bias", "float32", (1, 4, 1, 1), constant=True, place="bias")
    data = [FileTensor(f"x{index}", "float32", (1, 4, 8, 8), place=index) for index in range(5001)]
    chain = tuple(FileOperator(kind, f"x{index}", (data[index], row), (data[index + 1],)) for index in range(5000))
    with pytest.raises(BadInput, match="too many float operators one behind the other"):
        run_audit(Contents("coreai", chain, (data[0],), (data[-1],), (row,)), POLICY)


def test_another_tools_asset_is_audited_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "others.aimodel"
    write_draft(path, emitted(net().quantized, coreai_form="qdq"))
    (path / "metadata.json").write_text('{"assetVersion": "2.0", "producer": "another tool"}')
    found = audit_file(path)
    assert found.violations == ()
    assert found.weight_bytes["int8"] == sum(conv.weight.size for conv in net().quantized.convs)
    with pytest.raises(BadInput, match="of coreai files only this tool's own are run"):
        foreign_artifact(path, None)


def test_a_filter_of_zeros_with_a_tiny_scale_is_no_obstacle_in_float16(tmp_path: Path) -> None:
    """SqueezeNet 1.0 of Deep Compression has one."""
    table = net().quantized
    conv = table.convs[3]
    weight, scale, bias = conv.weight.copy(), np.broadcast_to(conv.weight_scale, len(conv.bias)).copy(), conv.bias.copy()
    weight[1], scale[1], bias[1] = 0, 1e-12, 0
    dead = replace(conv, weight=weight, weight_scale=scale, bias=bias)
    nodes = tuple(dead if node is conv else node for node in table.nodes)
    half = {"coreai_form": "qdq", "coreai_compute": "float16"}
    path = tmp_path / "dead.aimodel"
    write_draft(path, emitted(replace(table, nodes=nodes), **half))
    assert constant(read(path), f"{conv.name}/weight_scale", np.float16).ravel()[1] == 1
    alive = weight.copy()
    alive[1, 0, 0, 0] = 1
    nodes = tuple(replace(dead, weight=alive) if node is dead else node for node in nodes)
    with pytest.raises(Refused, match=f"the smallest weight scale of `{conv.name}` is `1e-12`"):
        emitted(replace(table, nodes=nodes), **half)


@pytest.mark.parametrize(("form", "compute", "least_db"), [("qdq", "float32", 48), ("qdq", "float16", 35)])
def test_the_other_forms_stay_close_to_the_integer_run(form: Any, compute: Any, least_db: float, tmp_path: Path) -> None:
    options = EmitOptions(coreai_form=form, coreai_compute=compute)
    artifact, _ = export(net().quantized, "coreai", INT8, tmp_path, name="net", options=options)
    with opened(artifact) as session:
        logits = session.infer(net().pixels)
    noise = np.square(logits - net().integers).sum()
    assert 10 * np.log10(np.square(net().integers).sum() / noise) > least_db
    assert noise > 0  # it is another form


def test_squeezenet_1_1_gives_the_integer_runs_logits(assets: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(assets / "weights" / "squeezenet1_1.safetensors")
    graph = build_graph(checkpoint.architecture, checkpoint.tensors, checkpoint.preprocess)
    files = sorted((assets / "images" / "calib").glob("*"))[:16]
    pixels = np.stack([load_pixels(file, checkpoint.preprocess) for file in files])
    table = quantize(graph, pixels, FloatRunner(graph), INT8, threads=2)
    artifact, _ = export(table, "coreai", INT8, tmp_path, name="real")
    with opened(artifact) as session:
        np.testing.assert_array_equal(session.infer(pixels[:4]), IntegerRunner(table)(pixels[:4]))
    assert differences(read(artifact.path), table, is_exact=True) == []
