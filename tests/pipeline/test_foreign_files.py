"""Files of other tools: validated and timed without a sidecar, with the answers that their runtime gives by hand."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from squeeze_export.core import TORCHVISION, EmitOptions, Foreign, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import FP32
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.nets.modules import build_module, load_arrays
from squeeze_export.pipeline import RunOptions, StructureChoice, bench_files, compare_files, export, open_network, validate_files
from squeeze_export.pipeline.export import export_checked
from squeeze_export.pipeline.foreign import foreign_artifact
from squeeze_export.pipeline.network import PreprocessChoice
from squeeze_export.pipeline.sidecar_document import sidecar_path
from squeeze_export.runtimes import onnxruntime
from squeeze_export.runtimes.foreign import Adapter

FAST = RunOptions(rounds=2)
CLASSES = ("ant", "bee", "cat", "dog", "eel")
SIDE_PX = 32


@pytest.fixture(scope="session")
def labelled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images of the tiny folder under classes that they were given in turn."""
    folder = tmp_path_factory.mktemp("labelled")
    for number, file in enumerate(sorted([*(tiny / "eval").iterdir(), *(tiny / "calib").iterdir()])):
        (folder / CLASSES[number % 5]).mkdir(exist_ok=True)
        shutil.copy(file, folder / CLASSES[number % 5] / f"{number}{file.suffix}")
    return folder


@pytest.fixture(scope="session")
def theirs(tiny: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The tiny network by torch's exporter, then by ONNX Runtime's quantizer in both formats, and by OpenVINO's converter."""
    torch, quantization = pytest.importorskip("torch"), pytest.importorskip("onnxruntime.quantization")
    openvino = pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("theirs")
    found = {name: folder / f"{name}.onnx" for name in ("float", "QOperator", "QDQ")} | {"openvino": folder / "net.xml"}
    checkpoint = read_checkpoint(tiny / "tiny.safetensors")
    module = build_module(checkpoint.architecture)
    load_arrays(module, checkpoint.tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = torch.zeros(1, 3, SIDE_PX, SIDE_PX)
        torch.onnx.export(
            module.eval(), images, found["float"], dynamo=False, opset_version=13, input_names=["x"], output_names=["y"]
        )

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter({"x": by_hand(file)} for file in sorted(labelled.rglob("*.*"))[:8])

        def get_next(self) -> Any:
            return next(self._left, None)

    logging.disable(logging.WARNING)  # the quantizer advises to preprocess the file first
    try:
        for form in ("QOperator", "QDQ"):
            quantization.quantize_static(found["float"], found[form], Images(), quant_format=quantization.QuantFormat[form])
    finally:
        logging.disable(logging.NOTSET)
    openvino.save_model(openvino.convert_model(found["float"]), found["openvino"], compress_to_fp16=False)
    return found


def by_hand(file: Path) -> Any:
    """(1, 3, H, W) float32: what the tiny network takes, from (pixel - 127.5) / 64."""
    pixels = load_pixels(file, replace(TORCHVISION, resize_px=36, crop_px=SIDE_PX))
    return ((pixels.astype(np.float32) - 127.5) / 64).transpose(2, 0, 1)[None]


def top1_by_hand(model: Path, labelled: Path) -> float:
    """Share of right answers in plain ONNX Runtime."""
    from onnxruntime import InferenceSession

    session = InferenceSession(model, providers=["CPUExecutionProvider"])
    files = sorted(labelled.rglob("*.*"))
    answers = [int(session.run(None, {"x": by_hand(file)})[0].argmax()) for file in files]
    return float(np.mean([answer == CLASSES.index(file.parent.name) for answer, file in zip(answers, files, strict=True)]))


@pytest.fixture
def named(tiny: Path) -> Any:
    """The tiny network with its classes."""
    return open_network(tiny / "tiny.safetensors", labels=tiny / "labels.txt")


@pytest.mark.parametrize(("form", "scheme"), [("float", "fp32"), ("QOperator", "int8"), ("QDQ", "int8")])
def test_accuracy_is_that_of_plain_onnx_runtime(
    form: str, scheme: str, theirs: Mapping[str, Path], labelled: Path, named: Any
) -> None:
    report = validate_files([theirs[form]], named, labelled, options=FAST)
    (row,) = report.measurements
    assert (row.status, row.scheme, row.accuracy.count) == ("ok", scheme, 28)
    assert row.accuracy.top1 == pytest.approx(top1_by_hand(theirs[form], labelled))
    if form == "float":
        assert row.accuracy.sqnr_db > 100
    else:
        assert 15 < row.accuracy.sqnr_db < 60
    (assumed,) = report.assumptions
    assert assumed.value == "pixels, RGB, mean 127.5,127.5,127.5, std 64,64,64, as float32 NCHW"


def test_openvinos_own_conversion(theirs: Mapping[str, Path], labelled: Path, named: Any) -> None:
    report = validate_files([theirs["openvino"]], named, labelled, options=replace(FAST, runtime="openvino"))
    assert report.measurements[0].accuracy.sqnr_db > 80


def test_a_tflite_file_without_our_metadata(tiny: Path, tmp_path: Path, labelled: Path) -> None:
    """With mean 0 and deviation 1 our float file is what any other tool would write: floats NHWC."""
    from squeeze_export.targets import tflite

    choice = PreprocessChoice(mean=(0, 0, 0), std=(1, 1, 1))
    network = open_network(tiny / "tiny.safetensors", labels=tiny / "labels.txt", preprocess=choice)
    path = tmp_path / "theirs.tflite"
    path.write_bytes(tflite.emit(network.graph, FP32, EmitOptions(input_dtype="float32"), {}))
    report = validate_files([path], network, labelled, options=FAST)
    assert report.measurements[0].accuracy.sqnr_db > 80
    assert bench_files([path], options=FAST).measurements[0].latency is not None


def test_two_files_of_other_tools_are_compared(theirs: Mapping[str, Path], labelled: Path, tiny: Path) -> None:
    """Without a checkpoint: the pixels come from the options, or from the sidecar of a file of this tool beside them."""
    choice = PreprocessChoice(resize_px=36, crop_px=SIDE_PX, mean=(127.5,) * 3, std=(64.0,) * 3)
    found = compare_files(theirs["float"], theirs["QDQ"], labelled, preprocess=choice, options=FAST)
    from onnxruntime import InferenceSession

    sessions = [InferenceSession(theirs[form], providers=["CPUExecutionProvider"]) for form in ("float", "QDQ")]
    classes = [[int(s.run(None, {"x": by_hand(file)})[0].argmax()) for file in sorted(labelled.rglob("*.*"))] for s in sessions]
    assert found.flip_count == sum(one != other for one, other in zip(*classes, strict=True))
    assert 15 < found.accuracy.sqnr_db < 60
    assert found.layers == ()
    ours, _ = export(open_network(tiny / "tiny.safetensors").graph, "onnx", FP32, theirs["float"].parent, name="ours")
    assert compare_files(ours.path, theirs["float"], labelled, options=FAST, bench=False).accuracy.sqnr_db > 80


def test_other_numbers_than_the_files_give_other_answers(theirs: Mapping[str, Path]) -> None:
    """The negative control: what the input takes does matter, so it must come from the options."""
    preprocess = replace(TORCHVISION, resize_px=36, crop_px=SIDE_PX, mean=(127.5,) * 3, std=(64.0,) * 3)
    artifact = foreign_artifact(theirs["float"], preprocess)
    assert artifact.foreign is not None
    blue = replace(artifact.foreign, preprocess=replace(artifact.foreign.preprocess, channel_order="bgr"))
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    sessions = [onnxruntime.open_session(one, device="cpu", threads=1) for one in (artifact, replace(artifact, foreign=blue))]
    plain, swapped, again = (
        session.infer(images) for session, images in zip((*sessions, sessions[1]), (pixels, pixels, pixels[..., ::-1]), strict=True)
    )
    assert not np.allclose(plain, swapped, atol=0.01)
    assert np.array_equal(plain, again)


def test_ours_and_theirs_side_by_side_and_against_the_clock(
    theirs: Mapping[str, Path], labelled: Path, named: Any, made: Any
) -> None:
    ours = made["onnx", "int8"].path
    report = validate_files([ours, theirs["QDQ"]], named, labelled, options=FAST)
    assert [row.accuracy.count for row in report.measurements] == [28, 28]
    timed = bench_files([theirs["float"], theirs["QDQ"], ours], options=FAST).measurements
    assert all(row.latency is not None for row in timed)
    assert timed[1].latency.speedup is not None


@pytest.mark.parametrize(
    ("source", "order", "pixel", "value"),
    [
        (TensorSpec("x", (1, 2, 2, 3), "uint8", "NHWC", 1.0, 0), "rgb", 200, 200),
        (TensorSpec("x", (1, 2, 2, 3), "int8", "NHWC", 1.0, -128), "rgb", 200, 72),
        (
            TensorSpec("x", (1, 2, 2, 3), "uint8", "NHWC", 1 / 127.5, 127),
            "rgb",
            200,
            199,
        ),  # 72.5 / 127.5 * 127.5 + 127, halves to even
        (TensorSpec("x", (1, 2, 2, 3), "int8", "NHWC", 1 / 127.5, 0), "rgb", 255, 127),  # above the largest step
        (TensorSpec("x", (1, 3, 2, 2), "float32", "NCHW"), "bgr", 255, 1.0),
        (TensorSpec("x", (1, 3, 2, 2), "float16", "NCHW"), "rgb", 0, -1.0),
    ],
)
def test_what_an_input_takes(source: TensorSpec, order: Any, pixel: int, value: float) -> None:
    preprocess = replace(TORCHVISION, crop_px=2, resize_px=2, mean=(127.5,) * 3, std=(127.5,) * 3, channel_order=order)
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[0, 0, 1, 0] = pixel  # red, in the first row
    taken = Adapter(source, TensorSpec("y", (1, 5), "float32", "NC"), Foreign(preprocess)).taken(images)
    assert (taken.shape, taken.dtype.name) == (source.shape, source.dtype)
    red = 2 if order == "bgr" else 0
    assert taken[(0, 0, 1, red) if source.layout == "NHWC" else (0, red, 0, 1)] == value


@pytest.mark.parametrize(("ending", "values"), [("logits", [[2, 4]]), ("log-softmax", np.exp([[2, 4]]))])
def test_what_an_output_gives(ending: Any, values: Any) -> None:
    result = TensorSpec("y", (1, 2), "uint8", "NC", 0.5, 6)
    found = Adapter(TensorSpec("x", (1, 2, 2, 3), "uint8", "NHWC", 1.0, 0), result, Foreign(TORCHVISION, ending))
    assert np.allclose(found.given(np.array([[[[10]], [[14]]]], np.uint8)), values)


@pytest.mark.parametrize(
    ("kind", "ending"), [("Softmax", "softmax"), ("LogSoftmax", "log-softmax"), ("Sigmoid", "sigmoid"), ("Identity", "logits")]
)
def test_the_end_of_a_file_is_seen(kind: str, ending: str, theirs: Mapping[str, Path], tmp_path: Path, named: Any) -> None:
    artifact = foreign_artifact(ending_in(kind, theirs["float"], tmp_path), named.graph.preprocess)
    assert (artifact.ending, artifact.gives_probabilities) == (ending, ending != "logits")


def ending_in(kind: str, path: Path, folder: Path) -> Path:
    """The file with one more operator at its end."""
    model = onnx.load(path)
    model.graph.node.append(helper.make_node(kind, [model.graph.output[0].name], ["end"], name="end"))
    model.graph.output[0].name = "end"
    onnx.save(model, folder / "ending.onnx")
    return folder / "ending.onnx"


def test_what_does_not_fit_is_refused(theirs: Mapping[str, Path], tmp_path: Path, named: Any, labelled: Path, made: Any) -> None:
    preprocess = named.graph.preprocess
    with pytest.raises(BadInput, match=r"`float.onnx` takes images of `32x32` px, the reference those of `48x48`") as caught:
        foreign_artifact(theirs["float"], replace(preprocess, crop_px=48, resize_px=48))
    assert caught.value.hint == "--crop 32x32"
    with pytest.raises(BadInput, match="takes images of `3` channels, the reference those of `1`"):
        foreign_artifact(theirs["float"], replace(preprocess, channel_order="gray", mean=(0.0,), std=(1.0,)))
    for target in ("onnx", "coreml"):
        ours = made[target, "int8"].path
        moved = tmp_path / ours.name
        (shutil.copytree if ours.is_dir() else shutil.copy)(ours, moved)
    with pytest.raises(BadInput, match=r"is a file of this tool, and `net.int8.onnx.json` is not beside it"):
        foreign_artifact(tmp_path / "net.int8.onnx", preprocess)
    with pytest.raises(BadInput, match="of coreml files only this tool's own are run"):
        foreign_artifact(tmp_path / "net.int8.mlpackage", preprocess)
    with pytest.raises(BadInput, match=r"`float.onnx` is another tool's file, and a board runs only this tool's"):
        bench_files([theirs["float"]], options=replace(FAST, on="ssh://board"))
    more = onnx.load(theirs["float"])
    more.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(more, tmp_path / "seven.onnx")
    with pytest.raises(BadInput, match=r"`seven.onnx` gives `7` numbers, the reference `tiny.safetensors` `5`"):
        validate_files([tmp_path / "seven.onnx"], named, labelled, options=FAST)


def test_a_file_of_any_size_is_timed_at_the_size_that_is_told(theirs: Mapping[str, Path], tmp_path: Path) -> None:
    model = onnx.load(theirs["float"])
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_param = "side"
    onnx.save(model, tmp_path / "any.onnx")
    with pytest.raises(BadInput, match=r"`any.onnx` leaves the size of its input free"):
        bench_files([tmp_path / "any.onnx"], options=FAST)
    assert bench_files([tmp_path / "any.onnx"], options=FAST, crop_px=SIDE_PX).measurements[0].latency is not None


def test_a_quantized_input_for_other_numbers_is_refused(
    monkeypatch: pytest.MonkeyPatch, theirs: Mapping[str, Path], named: Any
) -> None:
    """A uint8 input for 0 to 1 cannot hold what (pixel - 127.5) / 64 gives."""
    from squeeze_export.formats.contents import Contents

    spec = TensorSpec("x", (1, 3, SIDE_PX, SIDE_PX), "uint8", "NCHW", 1 / 255, 0)
    monkeypatch.setattr(Contents, "classifier", lambda self, path, halves: (spec, TensorSpec("y", (1, 5), "float32", "NC")))
    with pytest.raises(BadInput, match=r"takes numbers from `0` to `1`, the reference those from `-1.99` to `1.99`"):
        foreign_artifact(theirs["float"], named.graph.preprocess)


# ------------------------------------------------------------------------------------------------------- `--like SIDECAR.json`


@pytest.fixture(scope="session")
def bare(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network as a state dict, which tells neither its pixels nor its classes."""
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("bare") / "bare.pth"
    torch.save(
        {key: torch.from_numpy(array.copy()) for key, array in read_checkpoint(tiny / "tiny.safetensors").tensors.items()}, path
    )
    return path


@pytest.fixture(scope="session")
def sidecar(bare: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a file that was exported from it, by one who knows them."""
    choice = PreprocessChoice(resize_px=36, crop_px=SIDE_PX, mean=(127.5,) * 3, std=(64.0,) * 3, channel_order="rgb")
    network = open_network(bare, preprocess=choice, labels=tiny / "labels.txt", structure=StructureChoice(final_relu=True))
    folder, origin = tmp_path_factory.mktemp("sidecar"), network.origin()
    artifact = export_checked(network.graph, "onnx", FP32, folder, name="net", options=EmitOptions(), origin=origin)
    return sidecar_path(artifact.path)


@pytest.mark.parametrize("form", ["float", "QOperator"])
def test_a_sidecar_tells_what_the_reference_takes(
    form: str, bare: Path, sidecar: Path, theirs: Mapping[str, Path], labelled: Path
) -> None:
    network = open_network(bare, like=sidecar)
    assert (network.graph.preprocess.mean, network.graph.preprocess.resize_px) == ((127.5,) * 3, 36)
    assert network.graph.labels == CLASSES
    assert network.assumptions == ()
    (row,) = validate_files([theirs[form]], network, labelled, options=FAST).measurements
    assert row.accuracy.top1 == pytest.approx(top1_by_hand(theirs[form], labelled))


def test_without_the_sidecar_the_same_file_is_refused(bare: Path, theirs: Mapping[str, Path], labelled: Path) -> None:
    """The negative control: torchvision's pixels are assumed, and the file's input has another size."""
    with pytest.raises(BadInput, match="takes images of `32x32` px, the reference those of `224x224`"):
        validate_files([theirs["float"]], open_network(bare), labelled, options=FAST)


def test_an_option_beats_the_sidecar(bare: Path, sidecar: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    chosen = PreprocessChoice(channel_order="bgr")
    network = open_network(bare, like=sidecar, preprocess=chosen, labels=tmp_path / "names.txt")
    assert (network.graph.preprocess.channel_order, network.graph.preprocess.resize_px) == ("bgr", 36)
    assert network.graph.labels == ("a", "b", "c", "d", "e")


def test_what_a_sidecar_contradicts_is_refused(bare: Path, sidecar: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`--no-final-relu` was asked for, but in"):
        open_network(bare, like=sidecar, structure=StructureChoice(final_relu=False))
    with pytest.raises(BadInput, match=r"belongs to a file that was not made from `tiny.safetensors`"):
        open_network(tiny / "tiny.safetensors", like=sidecar)
    for name, text in {
        "other": "{}",
        "list": "[]",
        "text": "so",
        "damaged": '{"labels": [], "provenance": {"preprocess": 1}}',
    }.items():
        (tmp_path / f"{name}.json").write_text(text)
        with pytest.raises(BadInput, match=f"{name}.json` is (no sidecar of an exported file|damaged)") as caught:
            open_network(bare, like=tmp_path / f"{name}.json")
        assert "\n" not in caught.value.message
    with pytest.raises(BadInput, match="cannot be read"):
        open_network(bare, like=tmp_path / "absent.json")


def test_a_sidecar_tells_the_size_of_what_is_timed(theirs: Mapping[str, Path], sidecar: Path, tmp_path: Path) -> None:
    model = onnx.load(theirs["float"])
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_param = "side"
    onnx.save(model, tmp_path / "any.onnx")
    assert bench_files([tmp_path / "any.onnx"], options=FAST, like=sidecar).measurements[0].latency is not None
