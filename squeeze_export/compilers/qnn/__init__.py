"""Qualcomm Hexagon: ONNX Runtime's plug-in `onnxruntime-qnn` compiles a QDQ file for the tensor processor (HTP) of one SoC.

The product is an ONNX file with one node that holds QNN's context binary. Before it gets its name, it is loaded again, and must
give the same answers as the session that made it, bit for bit. The binary must also name the SoC that was asked for: given an
unknown number, the library compiles for something else without an error.

The HTP of v68 and v69 rounds every sum down. For these, a file with biases that compensate (see `rounding`) is compiled too, unless
that is switched off, and kept if its answers are nearer to the exact integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from squeeze_export.compilers import Compiled
from squeeze_export.compilers.qnn.compiling import compile_apart
from squeeze_export.compilers.qnn.rounding import ROUNDS_DOWN, correct_biases
from squeeze_export.core import Artifact, require
from squeeze_export.errors import BadInput, Refused, did_you_mean
from squeeze_export.formats.onnx import parsed
from squeeze_export.formats.qnn import GRAPH_KEY, binary_facts, graph_text, read_graph
from squeeze_export.workers.process import one_line
from squeeze_export.workers.worker import call

NAME = "qnn"
TARGET = "onnx"
SCHEMES = ("int8", "int8-npu")
"""`int8` has its average pool in fp16, which the HTP of some smaller SoCs lacks; `int8-npu` runs on all."""
SUFFIX = "_qnn.onnx"
RUNTIMES = ("qnn",)
PACKAGES = ("onnxruntime-qnn",)

SOC_MODELS: Mapping[str, int] = {
    "SM8650": 57,
    "SM8850": 87,
    "SM8750": 69,
    "SM8550": 43,
    "SM8475": 42,
    "SM8450": 36,
    "SM8350": 30,
    "SM8845": 97,
    "SM8735": 85,
    "SM8635": 68,
    "SM7675": 70,
    "SM7550": 64,
    "SM7450": 41,
    "SM7325": 35,
    "SC8480XP": 88,
    "SC8380XP": 60,
    "SC8280X": 37,
    "QCS9100": 77,
    "QCS8550": 66,
    "QCS8300": 82,
    "QCS6490": 93,
    "SA8295": 39,
    "SA8255": 52,
}
"""Name -> `soc_model`. The numbers are from Qualcomm's QnnTypes.h; ExecuTorch repeats some of them
(backends/qualcomm/serialization/qc_schema.py). Each compiled file names its SoC, and that is checked.
"""
CHIPS = tuple(SOC_MODELS)

OPTIMISE = ("0", "1", "2", "3")
"""`htp_graph_finalization_optimization_mode`; by the provider's documentation, 3 takes the longest and gives the best graph."""
SETTINGS: Mapping[str, tuple[str, ...]] = {"optimise": OPTIMISE, "bias_correction": ("off", "on")}
"""Setting -> its values; the last one is the default."""
TIMEOUT_S = 300.0
"""A SqueezeNet takes one or two seconds."""
_NO_FLOATS = "was not selected by that EP"


def check(chip: str, settings: Mapping[str, str]) -> None:
    """Refuses what is certain to fail; see `Compiler.check`."""
    if chip not in SOC_MODELS:
        raise BadInput(f"no SoC is called `{chip}`", hint=did_you_mean(chip, CHIPS))
    for name, value in settings.items():
        if name not in SETTINGS:
            raise BadInput(f"qnn has no setting `{name}`", hint=f"it has: {', '.join(SETTINGS)}")
        if value not in SETTINGS[name]:
            raise BadInput(f"the setting {name} `{value}`", hint=did_you_mean(value, SETTINGS[name]))
    require("onnxruntime", "qnn")
    require("onnxruntime_qnn", "qnn")


def compile_for(artifact: Artifact, chip: str, settings: Mapping[str, str], folder: Path) -> Compiled:
    """Compiles an ONNX file for one SoC; see `Compiler.compile_for`."""
    check(chip, settings)
    if artifact.target != TARGET or artifact.scheme not in SCHEMES:
        given = f"{artifact.target} {artifact.scheme}"
        raise BadInput(f"qnn does not take `{given}`", hint=f"it takes {TARGET} in: {', '.join(SCHEMES)}")
    if not isinstance(artifact.input.shape[0], int):
        raise BadInput("the HTP does not take an open batch", hint="--batch 1")
    chosen = {name: settings.get(name, values[-1]) for name, values in SETTINGS.items()}
    content = artifact.path.read_bytes()
    error, product = _compiled(content, artifact, chip, chosen["optimise"], folder / "as_it_is")
    if product.settings["htp_arch"] not in ROUNDS_DOWN or chosen["bias_correction"] == "off":
        return product
    corrected_content, count = correct_biases(content)
    corrected_error, corrected = _compiled(corrected_content, artifact, chip, chosen["optimise"], folder / "corrected")
    if corrected_error >= error:
        return product
    return replace(corrected, settings={**corrected.settings, "bias_correction": f"{count} convolution{'s' if count > 1 else ''}"})


def _compiled(content: bytes, artifact: Artifact, chip: str, optimise: str, folder: Path) -> tuple[Any, Compiled]:
    """Compiles one form of the artifact's file, and loads it again. Also gives the mean square error, if the HTP rounds down."""
    options = {"soc_model": str(SOC_MODELS[chip]), "htp_graph_finalization_optimization_mode": optimise}
    folder.mkdir()
    (folder / "source.onnx").write_bytes(content)
    (folder / "exact.onnx").write_bytes(artifact.path.read_bytes())
    asked = {"folder": str(folder.absolute()), "options": options}
    result, _ = call(compile_apart, asked, tool=f"QNN's compiler for `{chip}`", limit_s=TIMEOUT_S)
    if result["failure"]:
        words = one_line(result["failure"])
        if _NO_FLOATS in result["failure"] and artifact.scheme != SCHEMES[1]:
            raise Refused(f"the HTP of `{chip}` does not take the floats of `{artifact.scheme}`: {words}", hint="--scheme int8-npu")
        raise Refused(f"QNN does not compile `{artifact.path.name}` for `{chip}`: {words}")
    if result["difference"] != 0:
        raise Refused(
            f"the file compiled for `{chip}` gives other answers than the session that it came from: by {result['difference']:g}"
        )
    return result["error"], _product(folder, chip, optimise)


def _product(folder: Path, chip: str, optimise: str) -> Compiled:
    """The compiled file, with the operators of QNN's graph in its metadata.

    Raises:
        Refused: it is for another SoC, or holds only a part of the network.
    """
    content = (folder / "product.onnx").read_bytes()
    facts = binary_facts(content)
    if facts.get("soc") != chip:
        raise Refused(f"QNN compiled for `{facts.get('soc', 'no SoC that it names')}` instead of `{chip}`")
    model = parsed(content, folder / "product.onnx").model
    if [node.op_type for node in model.graph.node] != ["EPContext"]:
        raise Refused(f"QNN compiled only a part of the network for `{chip}`")
    sdk = {a.name: a.s.decode() for a in model.graph.node[0].attribute if a.name == "ep_sdk_version"}
    entry = model.metadata_props.add()
    entry.key, entry.value = GRAPH_KEY, graph_text(read_graph(folder))
    settings = {"soc_model": str(SOC_MODELS[chip]), "htp_arch": facts["htp_arch"], "optimise": optimise}
    return Compiled(model.SerializeToString(), {**settings, "qairt": sdk.get("ep_sdk_version", "").removeprefix("v")})
