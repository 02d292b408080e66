"""The contract: one list of behaviours, run over every target x scheme, and over every target x scheme x runtime x device.

A new target or runtime is in the list as soon as it is in its registry. Every behaviour that matters has a negative control:
an artifact broken on purpose, which it must not pass.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from squeeze_export.compilers import compiler_named
from squeeze_export.core import TORCHVISION, EmitOptions
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.files import Content, content_sha256, content_size, read_content, write_draft
from squeeze_export.formats import audited, format_named
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, QuantizedConv
from squeeze_export.graph.quantized import FP32, INT8, SCHEMES, Scheme
from squeeze_export.graph.table import read_table, table_bytes
from squeeze_export.measure.difference import first_layer_apart
from squeeze_export.pipeline.export import export, read_artifact
from squeeze_export.pipeline.sidecar_document import sidecar_path
from squeeze_export.registry import COMPILERS, RUNTIMES, TARGETS
from squeeze_export.targets import target_named
from tests.contract.conftest import VARIANTS

# ---------------------------------------------------------------------------------------------------------------- the matrix

ALIKE = ("palette8", "palette4")
"""Schemes that differ from palette6 in one number; tests/targets runs them."""


def is_special(target: str, scheme: str) -> bool:
    """Whether a scheme has the operators of int8 (w8: of fp32) but for a few: `SPECIAL_BEHAVIOURS` tell those."""
    return (SCHEMES[scheme].integer and scheme != "int8") or (scheme == "w8" and "palette6" not in target_named(target).SCHEMES)


EVERY = [(target, scheme) for target in TARGETS for scheme in target_named(target).SCHEMES if scheme not in ALIKE]
FILES = [case for case in EVERY if not is_special(*case)]
RUN_FILES = [case for case in FILES if target_named(case[0]).RUNTIMES]
"""Those that something here runs."""
SPECIAL = [case for case in EVERY if is_special(*case)]
UNREADABLE = {("tflite", "fp16", "tflite-micro"): "DEQUANTIZE", ("onnx", "int8", "torch"): "`DequantizeLinear` is no operator"}
"""Files that a runtime refuses -> what it says of them."""
SLOW_TO_OPEN = ("tflite-micro", "coreai")
"""Runtimes that take half a second for every file; in fp32 their own tests run them."""
RUNS = [
    (target, scheme, runtime)
    for target, scheme in FILES
    for runtime in target_named(target).RUNTIMES
    if (target, scheme, runtime) not in UNREADABLE and not (runtime in SLOW_TO_OPEN and scheme == "fp32")
]
FURTHER = [name for name in VARIANTS if name != "plain"]

MIN_SQNR_DB = {"fp32": 100, "fp16": 55, "w8": 25, "palette6": 20}
BF16_SQNR_DB = 30
"""Of a file that a runtime computes in bf16, whatever it is stored in."""
ONE_IMAGE = ("coreml",)
"""Targets whose uint8 input is an image: for a batch, they take float32."""
TARGETS_OF_INTEGER_LOGITS = ("tflite",)
EXACT = ("onnx", "tflite", "coreai")
"""Targets whose default runtime gives the very integers of the table. The others compute the rescaling in floating point."""


def weight_only(scheme: str) -> bool:
    """Whether just the weights are in few bits: such files have the operators of fp16."""
    return SCHEMES[scheme].weight_bits > 0 and not SCHEMES[scheme].integer


def sqnr_db(reference: Any, values: Any) -> float:
    noise = np.square(reference.astype(np.float64) - values).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / noise)) if noise else float("inf")


def assert_alike(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Equal to `tolerance` times the largest expected value."""
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=0, atol=tolerance * np.abs(expected).max())


def emptied(content: Content) -> list[Content]:
    """What is left of a file, or of a folder's files, after damage."""
    if isinstance(content, bytes):
        return [b"no file of any format", content[: len(content) // 3], b""]
    needed = [name for name in content if not name.endswith(".txt")]
    cut = max(needed, key=lambda name: len(content[name]))
    return [
        *({**content, name: b"no file of any format"} for name in needed),
        *({key: data for key, data in content.items() if key != name} for name in needed),
        {**content, cut: content[cut][: len(content[cut]) // 3]},
        {},
    ]


def put(path: Path, content: Content) -> None:
    """Replaces a file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    write_draft(path, content)


def joined(path: Path) -> bytes:
    """All bytes of a file or folder."""
    content = read_content(path)
    return content if isinstance(content, bytes) else b"".join(content.values())


def top1_agreement(found: Any, expected: Any) -> float:
    return float((found.argmax(axis=-1) == expected.argmax(axis=-1)).mean())


# ------------------------------------------------------------------------------------------------- behaviours of what is run


def answers_are_the_references(subject: Any) -> None:
    for logits in subject.logits():
        assert logits.dtype == np.float32
        if subject.integer:
            assert top1_agreement(logits, subject.net.integers) >= 0.9
        else:
            coarse = subject.runtime.endswith("bf16")
            assert sqnr_db(subject.net.reference, logits) > (BF16_SQNR_DB if coarse else MIN_SQNR_DB[subject.scheme])
            assert top1_agreement(logits, subject.net.reference) >= (1 if subject.scheme == "fp32" and not coarse else 0.9)


def answers_survive_the_next_call(subject: Any) -> None:
    with subject.opened(subject.written()) as sessions:
        for session in sessions:
            first = session.infer(subject.net.pixels[:1])
            kept = first.copy()
            session.infer(subject.net.pixels[1:2])
            np.testing.assert_array_equal(first, kept)


def a_batch_of_4_and_a_dynamic_one_equal_a_batch_of_1(subject: Any) -> None:
    pixels = {"input_dtype": "float32"} if subject.target in ONE_IMAGE else {}
    expected = subject.logits(batch=1)
    assert_alike(subject.logits(batch=4, **pixels), expected)
    assert_alike(subject.logits(batch="dynamic", **pixels), expected)


def float_pixels_equal_bytes(subject: Any) -> None:
    assert_alike(subject.logits(input_dtype="float32"), subject.logits(input_dtype="uint8"))


def softmax_is_the_softmax_of_the_logits(subject: Any) -> None:
    logits = subject.logits(softmax=False).astype(np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found = subject.logits(softmax=True)
    np.testing.assert_allclose(found, powers / powers.sum(axis=-1, keepdims=True), atol=1e-4)


def sigmoid_is_the_sigmoid_of_the_logits(subject: Any) -> None:
    logits = subject.logits(sigmoid=False).astype(np.float64)
    np.testing.assert_allclose(subject.logits(sigmoid=True), 1 / (1 + np.exp(-logits)), atol=1e-4)


def an_unknown_device_is_unavailable(subject: Any) -> None:
    with pytest.raises(Unavailable, match="`npu9`") as caught:
        subject.opener.open_session(subject.written(), device="npu9", threads=1)
    assert caught.value.exit_code == 3
    assert caught.value.hint


def a_session_says_what_it_uses(subject: Any) -> None:
    devices = subject.opener.devices()[:1]
    with subject.opened(subject.written()) as sessions:
        for session, device in zip(sessions, devices, strict=True):
            assert (session.runtime, session.device, session.threads) == (subject.runtime, device, 1)
            assert session.kernels
            assert session.evidence in ("measured", "emulated")
            assert session.placement.operator_count > 0
            assert session.placement.source
            assert session.placement.integer_mac_share == 0 or subject.integer


def a_file_that_is_none_is_refused(subject: Any) -> None:
    artifact = subject.copied()
    for damaged in emptied(read_content(artifact.path)):
        put(artifact.path, damaged)
        with pytest.raises(Refused) as caught:
            subject.opener.open_session(artifact, device=subject.opener.devices()[0], threads=1)
        assert "\n" not in caught.value.message


def its_inner_values_are_shown(subject: Any) -> None:
    """Each node's output is what the integer run makes of the file's own inputs to it, but for rounding."""
    if not subject.integer:
        return
    runner, names = IntegerRunner(subject.net.quantized), [node.name for node in subject.net.quantized.nodes[:-1]]
    pixels = {"input_dtype": "float32"} if subject.target in ONE_IMAGE else {}
    for options in ({}, {"batch": 3, **pixels}):
        artifact = subject.written(**options)
        values = subject.opener.inner_values(artifact, names, subject.net.pixels[:1])
        assert list(values) == names
        if subject.is_default:  # other kernels may round sums in their own way
            assert first_layer_apart(runner, subject.net.pixels[:1], values) == ""
        broken = dict(values) | {"conv10": values["conv10"] + 3 * subject.net.quantized.tensors["conv10"].scale}
        assert first_layer_apart(runner, subject.net.pixels[:1], broken) != ""
    with pytest.raises(Refused, match="`fire99`"):
        subject.opener.inner_values(artifact, ["fire99"], subject.net.pixels[:1])


RUN_BEHAVIOURS: tuple[Callable[[Any], None], ...] = (
    answers_are_the_references,
    answers_survive_the_next_call,
    a_batch_of_4_and_a_dynamic_one_equal_a_batch_of_1,
    float_pixels_equal_bytes,
    softmax_is_the_softmax_of_the_logits,
    sigmoid_is_the_sigmoid_of_the_logits,
    an_unknown_device_is_unavailable,
    a_session_says_what_it_uses,
    a_file_that_is_none_is_refused,
    its_inner_values_are_shown,
)


# --------------------------------------------------------------------------------------------- behaviours of what is written


def the_same_network_gives_the_same_bytes(subject: Any) -> None:
    first = subject.written()
    if subject.integer:
        table = subject.folder / "again.table"
        table.write_bytes(table_bytes(subject.net.quantized))
        again = replace(subject, quantized=read_table(table))
    else:
        again = replace(subject, graph=replace(subject.net.graph))
    second, _ = again.export("second")
    assert read_content(second.path) == read_content(first.path)
    assert second.sha256 == first.sha256


def an_integer_file_is_really_integer(subject: Any) -> None:
    artifact, audit = subject.exported()
    if not subject.integer:
        assert audited(subject.format, artifact.path).violations
        return
    assert audit.violations == ()
    weights = sum(conv.weight.size for conv in subject.net.quantized.convs)
    assert audit.weight_bytes["int8"] >= weights
    assert audit.weight_bytes.get("float32", 0) < weights / 4  # scales
    assert artifact.size_bytes < 1.5 * weights + 100_000
    if subject.scheme == "int8-symmetric" or not subject.runtime:
        return  # for GPUs: CPU runtimes compute int8 activations in float; or nothing here runs it
    with subject.opened(artifact) as sessions:
        assert [session.placement.integer_mac_share for session in sessions] == [1.0] * len(sessions)


def the_file_describes_itself(subject: Any) -> None:
    one = subject.target in ONE_IMAGE
    three = EmitOptions(3, "float32" if one else "uint8")
    integer_logits = SCHEMES[subject.scheme].integer_output
    dtype = "int8" if integer_logits and subject.target in TARGETS_OF_INTEGER_LOGITS else "float32"
    scores = EmitOptions(sigmoid=not integer_logits)
    for options in (EmitOptions(), EmitOptions("dynamic", "float32", softmax=not integer_logits), three, scores):
        artifact = replace(subject, options=options).written()
        assert (artifact.input, artifact.output) == format_named(subject.format).describe(artifact.path)
        batch, *rest = artifact.input.shape
        assert isinstance(batch, str) if options.batch == "dynamic" else batch == options.batch
        assert (rest, artifact.input.layout) == ([64, 64, 3], "NHWC")
        assert artifact.input.dtype == options.input_dtype
        assert (artifact.output.shape[1:], artifact.output.dtype, artifact.output.layout) == ((12,), dtype, "NC")
        assert artifact.output.name == ("probabilities" if options.softmax else "scores" if options.sigmoid else "logits")
        assert artifact.ending == options.ending


def the_sidecar_tells_where_the_file_came_from(subject: Any) -> None:
    artifact, audit = subject.exported()
    told = json.loads(sidecar_path(artifact.path).read_text(encoding="utf-8"))
    content = read_content(artifact.path)
    assert (told["file"], told["target"], told["scheme"]) == (artifact.path.name, subject.target, subject.scheme)
    assert told["sha256"] == content_sha256(content)
    assert told["size_bytes"] == content_size(content)
    assert told["labels"] == list(subject.net.graph.labels)
    assert told["audit"]["operators"] == dict(audit.operators)
    origin = told["provenance"]
    assert origin["checkpoint_sha256"] == subject.net.graph.checkpoint_sha256
    assert origin["preprocess"]["mean"] == list(TORCHVISION.mean)
    assert origin["preprocess"]["crop_px"] == 64
    assert origin["versions"]
    assert origin.get("table_sha256") == (subject.net.quantized.sha256 if subject.integer else None)
    again = read_artifact(artifact.path)
    assert replace(again, provenance={}) == replace(artifact, provenance={})
    assert again.provenance == json.loads(json.dumps(artifact.provenance))


def the_file_carries_labels_preprocessing_and_hashes(subject: Any) -> None:
    content = joined(subject.written().path)
    for label in subject.net.graph.labels:
        assert label.encode() in content
    assert subject.net.graph.checkpoint_sha256.encode() in content
    assert b"123.675" in content
    assert not subject.integer or subject.net.quantized.sha256.encode() in content


def a_changed_file_is_not_read(subject: Any) -> None:
    artifact = subject.copied()
    content = read_content(artifact.path)
    files = {"": content} if isinstance(content, bytes) else dict(content)
    for name, data in files.items():
        changed = bytearray(data)
        changed[len(changed) // 2] ^= 1
        put(artifact.path, bytes(changed) if isinstance(content, bytes) else {**files, name: bytes(changed)})
        with pytest.raises(BadInput, match="SHA-256 differs"):
            read_artifact(artifact.path)
    put(artifact.path, content if isinstance(content, bytes) else {**files, "more.txt": b"more"})
    if isinstance(content, bytes):
        return
    with pytest.raises(BadInput, match="SHA-256 differs"):
        read_artifact(artifact.path)


def nothing_but_file_and_sidecar_is_left(subject: Any) -> None:
    artifact, _ = subject.export()
    assert artifact.path.name == f"net.{subject.scheme}{subject.module.SUFFIX}"
    assert sorted(subject.folder.iterdir()) == [artifact.path, sidecar_path(artifact.path)]


def a_write_that_fails_leaves_the_old_file(subject: Any) -> None:
    artifact = subject.copied()
    before = read_content(artifact.path)

    def fail(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(BadInput, match="No space left on device"):
            subject.export(softmax=True)
    assert read_content(artifact.path) == before
    assert sorted(subject.folder.iterdir()) == [artifact.path, sidecar_path(artifact.path)]


FILE_BEHAVIOURS: tuple[Callable[[Any], None], ...] = (
    the_same_network_gives_the_same_bytes,
    an_integer_file_is_really_integer,
    the_file_describes_itself,
    the_sidecar_tells_where_the_file_came_from,
    the_file_carries_labels_preprocessing_and_hashes,
    a_changed_file_is_not_read,
    nothing_but_file_and_sidecar_is_left,
    a_write_that_fails_leaves_the_old_file,
)

# ------------------------------------------------------------------------------------------------------------------ the runs


@pytest.mark.parametrize("behaviour", RUN_BEHAVIOURS, ids=lambda behaviour: behaviour.__name__)
@pytest.mark.parametrize("case", RUNS, ids="-".join)
def test_every_runtime(case: tuple[str, ...], behaviour: Callable[[Any], None], make_subject: Any) -> None:
    behaviour(make_subject(case))


@pytest.mark.parametrize("behaviour", FILE_BEHAVIOURS, ids=lambda behaviour: behaviour.__name__)
@pytest.mark.parametrize("case", FILES, ids="-".join)
def test_every_file(case: tuple[str, ...], behaviour: Callable[[Any], None], make_subject: Any) -> None:
    behaviour(make_subject(case))


@pytest.mark.parametrize("case", UNREADABLE, ids="-".join)
def test_a_scheme_that_a_runtime_cannot_open_is_refused(case: tuple[str, ...], make_subject: Any) -> None:
    subject = make_subject(case)
    with pytest.raises(Refused, match=UNREADABLE[case]):
        subject.opener.open_session(subject.written(), device="cpu", threads=1)


def integers_are_the_oracles(subject: Any) -> None:
    """Alike; within one step where a sum may round to its neighbour, as XNNPACK adds in fixed point; within two where every
    rescaling may; of 16 bits within eight, as TFLite's own kernels have 15 bits for a scale.
    """
    if SCHEMES[subject.scheme].activation_bits == 16:
        step = subject.net.quantized.tensors["conv10"].scale
        assert np.abs(subject.logits() - subject.net.integers).max() <= 8 * step
    elif subject.target not in EXACT:
        step = subject.net.quantized.tensors["conv10"].scale
        assert np.abs(subject.logits() - subject.net.integers).max() <= 2 * step
    elif any(isinstance(node, Add) for node in subject.net.quantized.nodes):
        tensors = subject.net.quantized.tensors
        step = tensors.get("logits", tensors["conv10"]).scale * 1.001  # integer logits are real values of float32 themselves
        assert np.abs(subject.logits() - subject.net.integers).max() <= step
    else:
        assert_alike(subject.logits(), subject.net.integers)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", [case for case in RUN_FILES if SCHEMES[case[1]].integer], ids="-".join)
def test_the_default_runtime_gives_the_integers_of_the_table(
    case: tuple[str, ...], variant: str, make_subject: Any, sums_are_exact: bool
) -> None:
    if not sums_are_exact:
        pytest.skip("this CPU saturates u8 x s8 sums: no VNNI")
    integers_are_the_oracles(make_subject(case, variant))


@pytest.mark.parametrize("behaviour", [answers_are_the_references, an_integer_file_is_really_integer], ids=lambda b: b.__name__)
@pytest.mark.parametrize("variant", FURTHER)
@pytest.mark.parametrize("case", [case for case in RUN_FILES if not weight_only(case[1])], ids="-".join)
def test_every_member_of_the_family(
    case: tuple[str, ...], variant: str, behaviour: Callable[[Any], None], make_subject: Any
) -> None:
    behaviour(make_subject(case, variant))


@pytest.mark.parametrize("target", TARGETS)
def test_a_scheme_that_a_target_does_not_carry_is_refused(target: str, make_subject: Any, tmp_path: Path) -> None:
    subject = make_subject((target, target_named(target).SCHEMES[0]))
    others = [scheme for name, scheme in SCHEMES.items() if name not in subject.module.SCHEMES]
    for scheme in (*others, Scheme("int7", integer=True)):
        with pytest.raises(BadInput, match=f"`{scheme.name}`") as caught:
            export(subject.net.quantized, target, scheme, tmp_path, name="net")
        assert caught.value.hint == f"it carries: {', '.join(subject.module.SCHEMES)}"
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_the_other_kind_is_refused(make_subject: Any, tmp_path: Path) -> None:
    net = make_subject(FILES[0]).net
    with pytest.raises(BadInput, match="`int8` needs a quantized graph"):
        export(net.graph, FILES[0][0], INT8, tmp_path, name="net")
    with pytest.raises(BadInput, match="`fp32` needs a float graph"):
        export(net.quantized, FILES[0][0], FP32, tmp_path, name="net")


def test_every_runtime_belongs_to_a_target() -> None:
    """Or to a compiler, whose products it opens."""
    opened = {runtime for name in COMPILERS for runtime in compiler_named(name).RUNTIMES}
    assert {runtime for _, _, runtime in RUNS} | opened == set(RUNTIMES)


def test_the_images_tell_networks_apart(make_subject: Any) -> None:
    """What the comparisons are worth: the sixteen answers are not all one class."""
    for variant in VARIANTS:
        assert len(set(make_subject(FILES[0], variant).net.reference.argmax(axis=1))) >= 10


SPECIAL_BEHAVIOURS: tuple[Callable[[Any], None], ...] = (
    the_same_network_gives_the_same_bytes,
    an_integer_file_is_really_integer,
    the_file_describes_itself,
)
"""Of schemes that have most of their file from int8 or fp32: on the default runtime alone."""


@pytest.mark.parametrize("case", SPECIAL, ids="-".join)
def test_special_schemes(case: tuple[str, ...], make_subject: Any, sums_are_exact: bool) -> None:
    for behaviour in SPECIAL_BEHAVIOURS:
        behaviour(make_subject(case))
    subject = make_subject(case, "complex")  # a bypass brings a zero point where the scheme has any
    answers_are_the_references(subject)
    if subject.integer and sums_are_exact:
        integers_are_the_oracles(subject)
        with pytest.raises(AssertionError):
            integers_are_the_oracles(replace(subject, quantized=flipped(subject.quantized)))
        if subject.target in EXACT:
            its_inner_values_are_shown(subject)


# ----------------------------------------------------------------------------------------------------- the negative controls

DEFAULT_INT8 = [case for case in RUN_FILES if SCHEMES[case[1]].integer]
DEFAULT_FP32 = [case for case in RUN_FILES if case[1] == "fp32"]


def flipped(quantized: Any) -> Any:
    """The table with one weight of conv10 changed, the one that the answers depend on most."""
    conv = quantized.convs[-1]
    weight = conv.weight.copy()
    at = np.unravel_index(np.abs(weight.astype(int)).argmax(), weight.shape)
    weight[at] = -weight[at]
    return replace(quantized, nodes=tuple(replace(conv, weight=weight) if node is conv else node for node in quantized.nodes))


@pytest.mark.parametrize("case", DEFAULT_INT8, ids="-".join)
def test_one_flipped_weight_is_noticed(case: tuple[str, ...], make_subject: Any) -> None:
    subject = make_subject(case)
    broken = replace(subject, quantized=flipped(subject.quantized))
    for behaviour in (integers_are_the_oracles, the_same_network_gives_the_same_bytes, the_sidecar_tells_where_the_file_came_from):
        with pytest.raises(AssertionError):
            behaviour(broken)


@pytest.mark.parametrize("case", DEFAULT_FP32, ids="-".join)
def test_one_layer_off_by_a_thousandth_is_noticed(case: tuple[str, ...], make_subject: Any) -> None:
    subject = make_subject(case)
    first = subject.graph.convs[1]
    nodes = tuple(replace(node, weight=node.weight * np.float32(1.001)) if node is first else node for node in subject.graph.nodes)
    broken = replace(subject, graph=replace(subject.graph, nodes=nodes))
    for behaviour in (answers_are_the_references, the_same_network_gives_the_same_bytes):
        with pytest.raises(AssertionError):
            behaviour(broken)


@pytest.mark.parametrize("case", DEFAULT_INT8, ids="-".join)
def test_wrong_integers_are_noticed_by_the_top_class(case: tuple[str, ...], make_subject: Any) -> None:
    subject = make_subject(case)
    nodes = tuple(
        replace(node, weight=-node.weight) if isinstance(node, QuantizedConv) else node for node in subject.quantized.nodes
    )
    with pytest.raises(AssertionError):
        answers_are_the_references(replace(subject, quantized=replace(subject.quantized, nodes=nodes)))


@pytest.mark.parametrize("case", DEFAULT_INT8, ids="-".join)
def test_a_float_file_called_int8_never_appears(
    case: tuple[str, ...], make_subject: Any, emitter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, module = make_subject(case), emitter(case[0])
    emit, floats = module.emit, subject.graph
    monkeypatch.setattr(module, "emit", lambda network, scheme, options, metadata: emit(floats, FP32, options, metadata))
    with pytest.raises(Refused, match="is not the integer network it claims to be") as caught:
        subject.export()
    assert caught.value.exit_code == 4
    assert list(subject.folder.iterdir()) == []


@pytest.mark.parametrize("case", DEFAULT_FP32, ids="-".join)
def test_a_float_file_presented_as_int8_fails(case: tuple[str, ...], make_subject: Any) -> None:
    floats = make_subject(case)
    artifact = floats.written()
    audit = audited(floats.format, artifact.path)
    presented = replace(floats, scheme="int8")
    object.__setattr__(presented, "exported", lambda *args, **options: (artifact, audit))
    with pytest.raises(AssertionError):
        an_integer_file_is_really_integer(presented)


def stand_in(subject: Any, infer: Callable[[Any], Any]) -> Any:
    """The subject with a session that answers by `infer`, whenever it is asked."""

    @contextmanager
    def opened(artifact: Any) -> Any:
        yield [SimpleNamespace(infer=infer)]

    object.__setattr__(subject, "opened", opened)
    object.__setattr__(subject, "logits", lambda **options: np.stack([infer(subject.net.pixels)]))
    return subject


def test_a_session_that_lends_its_buffer_is_noticed(make_subject: Any) -> None:
    buffer = np.zeros((1, 12), np.float32)

    def infer(batch: Any) -> Any:
        buffer[:] = batch.mean()
        return buffer

    with pytest.raises(AssertionError):
        answers_survive_the_next_call(stand_in(make_subject(FILES[0]), infer))


@pytest.mark.parametrize(
    "behaviour",
    [a_batch_of_4_and_a_dynamic_one_equal_a_batch_of_1, float_pixels_equal_bytes, softmax_is_the_softmax_of_the_logits],
    ids=lambda behaviour: behaviour.__name__,
)
def test_an_option_that_changes_the_answer_is_noticed(behaviour: Callable[[Any], None], make_subject: Any) -> None:
    answers = iter(np.random.default_rng(0).normal(size=(9, 16, 12)).astype(np.float32))
    with pytest.raises(AssertionError):
        behaviour(stand_in(make_subject(FILES[0]), lambda batch: next(answers)))


@pytest.mark.parametrize("case", FILES, ids="-".join)
def test_lost_labels_are_noticed(case: tuple[str, ...], make_subject: Any) -> None:
    subject = make_subject(case)
    broken = replace(subject, graph=replace(subject.graph, labels=()), quantized=replace(subject.quantized, labels=()))
    for behaviour in (the_sidecar_tells_where_the_file_came_from, the_file_carries_labels_preprocessing_and_hashes):
        with pytest.raises(AssertionError):
            behaviour(broken)


def test_a_file_of_another_checkpoint_is_noticed(make_subject: Any) -> None:
    for case in DEFAULT_FP32:
        subject = make_subject(case)
        broken = replace(subject, graph=replace(subject.graph, checkpoint_sha256="dead"))
        for behaviour in (the_sidecar_tells_where_the_file_came_from, the_file_carries_labels_preprocessing_and_hashes):
            with pytest.raises(AssertionError):
                behaviour(broken)


def test_a_file_left_behind_is_noticed(make_subject: Any) -> None:
    subject = make_subject(FILES[0])
    (subject.folder / ".net.tmp").write_bytes(b"half")
    with pytest.raises(AssertionError):
        nothing_but_file_and_sidecar_is_left(subject)
