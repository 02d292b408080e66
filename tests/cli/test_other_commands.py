"""calibrate, validate, bench, inspect, audit, report, weights, doctor: what each is for."""

import hashlib
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from squeeze_export.cli.options.network import DEMO_NOTE
from squeeze_export.graph.table import read_table, table_bytes
from squeeze_export.measure.environment import Item
from squeeze_export.nets.download import NAMED_WEIGHTS

OUT = Path("squeeze-export-out")
INT8 = OUT / "squeezenet_custom.int8.onnx"
FP32 = OUT / "squeezenet_custom.fp32.onnx"
TABLE = OUT / "squeezenet_custom.int8.table"


@pytest.fixture
def exported(squeeze, net):
    """The tiny network as fp32 and int8 ONNX, with labels."""
    for scheme in ("fp32", "int8"):
        assert squeeze("onnx", *net, "--scheme", scheme, "--no-validate", "--no-bench").code == 0


# --- calibrate


def test_calibrate_writes_a_table(squeeze, net):
    result = squeeze("calibrate", *net, "--seed", 7)
    assert result.code == 0, result.err
    table = read_table(TABLE)
    assert (table.provenance["seed"], table.provenance["recipe"]) == (7, "fast")
    assert result.out == f"{TABLE}  20 images, recipe fast, sha256 {table.sha256[:12]}\n"
    assert result.err == "warning: `20` calibration images are few: ranges are steadier with 100 or more\n"


def test_calibrate_tells_all_in_json(squeeze, net):
    facts = json.loads(squeeze("calibrate", *net, "--json").out)
    digest = hashlib.sha256(table_bytes(read_table(TABLE), checksum=False)).hexdigest()
    assert facts == {
        "table": str(TABLE),
        "source": "calib",
        "image_count": 20,
        "recipe": "fast",
        "seed": 0,
        "scheme": "int8",
        "table_sha256": digest,
    }


def test_calibrate_the_demo_network(squeeze):
    result = squeeze("calibrate")
    assert result.err == "no --weights: this is the embedded demo network, 24 drawn classes at 96 px\n"
    assert result.out.startswith(f"{OUT / 'squeezenet1_1_demo.int8.table'}  120 images, recipe fast, sha256 ")


# --- validate


def test_validate_prints_a_table(squeeze, net, tiny, exported):
    result = squeeze("validate", INT8, FP32, *net[:2], "--eval", tiny / "eval")
    assert result.code == 0, result.err
    _, int8, fp32 = result.out.splitlines()
    assert int8.split()[:3] == ["onnx", "int8", "cpu"]
    assert fp32.split()[:3] == ["onnx", "fp32", "cpu"]
    assert result.err == ""


def test_validate_in_json(squeeze, net, tiny, exported):
    report = json.loads(squeeze("validate", INT8, *net[:2], "--eval", tiny / "eval", "--json").out)
    (row,) = report["measurements"]
    assert (row["accuracy"]["count"], row["latency"]) == (8, None)
    assert report["evaluation"]["source"] == "eval"


def test_validate_warns_of_what_it_left_out(squeeze, net, tiny, exported):
    Path("val").mkdir()
    for file in (tiny / "eval").iterdir():
        Path("val", file.name).write_bytes(file.read_bytes())
    Path("val/03.png").write_bytes(b"torn")
    result = squeeze("validate", INT8, *net[:2], "--eval", "val", "--skip-broken", "--json")
    assert result.err == "warning: `1` unreadable evaluation images were left out, the first is `03.png`\n"
    assert json.loads(result.out)["evaluation"]["image_count"] == 7


def test_validate_the_demo_network_on_its_own_images(squeeze):
    squeeze("onnx", "--int8", "--no-validate", "--no-bench")
    result = squeeze("validate", OUT / "squeezenet1_1_demo.int8.onnx")
    assert result.code == 0
    assert result.err.splitlines() == [DEMO_NOTE, "compared on 240 images: the demo network's own evaluation images"]
    assert "top-1" in result.out


# --- bench


def test_bench_compares_with_the_fp32_file(squeeze, exported):
    result = squeeze("bench", FP32, INT8, "--rounds", 3, "--json")
    assert result.code == 0
    fp32, int8 = json.loads(result.out)["measurements"]
    assert (fp32["latency"]["speedup"], fp32["accuracy"]) == (None, None)
    assert int8["latency"]["speedup"]["value"] > 0
    assert len(int8["latency"]["samples_ns"]) == 3


def test_bench_prints_a_table(squeeze, exported):
    result = squeeze("bench", FP32, INT8, "--rounds", 3)
    *table, empty, verdict = result.out.splitlines()
    assert [line.split()[1] for line in table] == ["scheme", "fp32", "int8"]
    assert (empty, result.err) == ("", "")
    assert re.fullmatch(r"\w+ on cpu: 3 rounds do not tell whether int8 is faster than fp32 \(.*\): --rounds 20 may", verdict)


# --- inspect


def test_inspect_gives_the_papers_figures(squeeze):
    """Table 1 of arXiv:1602.07360: parameters of every layer, and the model's 4.8 MB."""
    result = squeeze("inspect", "--architecture", "squeezenet1_0")
    rows = {line.split()[0]: line.split() for line in result.out.splitlines() if line.strip()}
    paper = {"conv1": "14,208", "fire2": "11,920", "fire3": "12,432", "fire4": "45,344", "fire5": "49,440", "fire6": "104,880"}
    paper |= {"fire7": "111,024", "fire8": "188,992", "fire9": "197,184", "conv10": "513,000", "total": "1,248,424"}
    assert {name for name, count in paper.items() if count not in rows[name]} == set()
    assert rows["fire4"][:6] == ["fire4", "55x55x256", "2", "32", "128", "128"]
    assert result.out.endswith("1,248,424 parameters, 4.99 MB (4.76 MiB) in float32\n")


def test_inspect_fits_a_terminal(squeeze):
    assert max(map(len, squeeze("inspect", "--architecture", "squeezenet1_0_complex_bypass").out.splitlines())) <= 79


def test_inspect_a_checkpoint_in_json(squeeze, tiny):
    result = squeeze("inspect", "--weights", tiny / "tiny.safetensors", "--json")
    values = json.loads(result.out)
    assert result.err == ""
    assert (values["architecture"]["name"], values["input_px"]) == ("squeezenet_custom", 32)
    assert values["total"]["parameter_count"] == sum(layer["parameter_count"] for layer in values["layers"])


def test_inspect_the_demo_network(squeeze):
    result = squeeze("inspect")
    assert result.err.startswith("no --weights: ")
    assert result.out.startswith("squeezenet1_1 at 96 px, float32\n")


# --- other tools' files


def test_another_tools_file_is_validated_and_what_was_assumed_is_said(squeeze, tiny, exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(INT8)
    del model.metadata_props[:]
    onnx.save(model, "theirs.onnx")
    result = squeeze("validate", "theirs.onnx", INT8, "--weights", tiny / "tiny.safetensors", "--eval", tiny / "eval", "--json")
    assert result.code == 0, result.err
    said = "theirs.onnx takes what the reference takes"
    assert f"assuming {said}: raw pixels, RGB, as uint8 NHWC\n" in result.err
    report = json.loads(result.out)
    assert report["assumptions"][-1]["why"] == said
    theirs, ours = report["measurements"]
    assert theirs["accuracy"]["sqnr_db"] == ours["accuracy"]["sqnr_db"]
    assert squeeze("bench", "theirs.onnx", "--rounds", 2).code == 0


# --- audit


def test_audit_tells_integer_from_float(squeeze, exported):
    result = squeeze("audit", INT8, FP32)
    assert result.code == 4
    assert f"{INT8}: integer network\n" in result.out
    assert f"{FP32}: not an integer network\n" in result.out
    assert "  violations       none\n" in result.out
    assert squeeze("audit", INT8).code == 0


def test_audit_in_json(squeeze, exported):
    result = squeeze("audit", FP32, "--json")
    assert result.code == 4
    found = json.loads(result.out)
    assert list(found) == [str(FP32)]
    assert found[str(FP32)]["violations"]


def test_audit_says_what_cannot_be_told(squeeze, exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(INT8)
    node = next(node for node in model.graph.node if node.op_type == "MaxPool")
    node.domain = "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(model, "foreign.onnx")
    result = squeeze("audit", "foreign.onnx")
    assert result.code == 6
    assert "foreign.onnx: cannot be told whether it is an integer network\n" in result.out
    assert f"  cannot be told   com.example:MaxPool `{node.name}` cannot be seen through: a foreign operator\n" in result.out
    assert squeeze("audit", "foreign.onnx", FP32).code == 4


def test_audit_reads_mlmodel_files(squeeze):
    """Here one of several models in a row, which is valid, and is not read."""
    Path("a.mlmodel").write_bytes(b"\x08\x04\x12\x00\xd2\x0c\x00")
    result = squeeze("audit", "a.mlmodel")
    assert result.code == 6
    assert "the model is not read: its model is of the kind `pipeline`" in result.out
    Path("a.mlmodel").write_bytes(b"\x08\x04\x12\x00")
    assert squeeze("audit", "a.mlmodel").refusal()[0].endswith("it holds no model: no ML program and no neural network")


# --- report


@pytest.fixture
def report(squeeze, net):
    """A report file."""
    assert squeeze("onnx", *net, "--int8", "--rounds", 2).code == 0
    return OUT / "report.json"


def test_report_forms(squeeze, report):
    table = squeeze("report", report)
    assert table.out.startswith("target  scheme  device")
    assert squeeze("report", report, "--format", "markdown").out.count("| onnx |") == 2
    assert squeeze("report", report, "--format", "html").out.startswith("<!doctype html>")
    assert json.loads(squeeze("report", report, "--json").out) == json.loads(report.read_text(encoding="utf-8"))
    assert table.err == ""


def test_the_page_of_an_export_is_that_of_the_command(squeeze, report, tiny):
    """Pictures aside: `report` is told where the images are, an export knows."""
    page = squeeze("report", report, "--format", "html", "--eval", tiny / "calib").out
    assert page == (OUT / "report.html").read_text(encoding="utf-8") + "\n"
    text = squeeze("report", report, "--format", "markdown").out
    assert text == (OUT / "report.md").read_text(encoding="utf-8") + "\n"


def test_plots(squeeze, report):
    result = squeeze("report", report, "--plots", "plots")
    assert result.code == 0
    assert result.err.splitlines() == [f"wrote {Path('plots', name)}.png" for name in ("accuracy", "size", "latency", "placement")]
    assert result.out.startswith("target  scheme  device")
    for name in Path("plots").iterdir():
        assert name.read_bytes().startswith(b"\x89PNG")


def test_plots_without_matplotlib(squeeze, report, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = squeeze("report", report, "--plots", "plots")
    assert (result.code, result.out) == (3, "")
    assert result.refusal()[1] == "pip install 'squeeze-export[report]'"
    assert not Path("plots").exists()


def test_plots_of_nothing(squeeze, net):
    squeeze("onnx", *net, "--no-validate", "--no-bench")
    result = squeeze("report", OUT / "report.json", "--plots", "plots")
    assert (result.code, result.refusal()[0]) == (2, "the report has no figures to draw: it was neither validated nor timed")


def test_history(squeeze, report):
    older = json.loads(report.read_text(encoding="utf-8")) | {"created": "2020-01-01T00:00:00+00:00"}
    Path("old").mkdir()
    Path("old/2020.json").write_text(json.dumps(older))
    result = squeeze("report", report, "--format", "html", "--history", "old")
    assert result.err == ""
    assert "<summary>The 2 reports behind these lines</summary>" in result.out
    assert "report by report" not in squeeze("report", report, "--format", "html").out
    Path("old/other.json").write_text("{}")
    result = squeeze("report", report, "--history", "old", "--plots", "plots")
    assert result.err.startswith("warning: 1 other JSON file in `old`: no older reports of this network\n")
    assert Path("plots/history-size.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--history", "old"), "--history is drawn: the table and Markdown have no drawings"),
        (("--eval", "old"), "--eval is for the page"),
        (("--format", "html", "--eval", "none"), "`none` does not exist"),
        (("--format", "html", "--history", "none"), "`none` is no folder"),
        (("--format", "html", "--history", "."), "`.` holds no older report of `squeezenet_custom`"),
    ],
)
def test_report_refuses_what_would_have_no_effect(arguments, message, squeeze, report):
    Path("old").mkdir()
    result = squeeze("report", report, *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.refusal()[0] == message


# --- weights


def test_weights_lists(squeeze, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = squeeze("weights")
    assert [line.split() for line in result.out.splitlines()] == [
        [name, url, "not", "downloaded"] for name, url in NAMED_WEIGHTS.items()
    ]
    assert [row["cached"] for row in json.loads(squeeze("weights", "--json").out)] == [False, False]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_weights_gives_the_path_of_one(form, squeeze, monkeypatch, tmp_path):
    path = tmp_path / "net.pth"
    monkeypatch.setattr("squeeze_export.cli.weights.fetch_weights", lambda name, **_: path)
    result = squeeze("weights", "squeezenet1_1", *form)
    assert (json.loads(result.out)["path"] if form else result.out.strip()) == str(path)


# --- doctor


def test_doctor_lists_packages_with_versions(squeeze):
    result = squeeze("doctor")
    assert (result.code, result.err) == (0, "")
    line = next(line for line in result.out.splitlines() if " onnxruntime " in line)
    assert line.split()[:3] == ["yes", "onnxruntime", version("onnxruntime")]


def test_doctor_in_json(squeeze):
    items = {item["name"]: item for item in json.loads(squeeze("doctor", "--json").out)}
    assert items["cpu"]["present"]
    assert items["onnxruntime"]["detail"] == version("onnxruntime")


def test_doctor_without_onnxruntime(squeeze, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert squeeze("doctor").code == 0


def test_doctor_groups_what_it_found_and_says_what_to_type(squeeze, monkeypatch):
    items = [
        Item("package", "onnx", True, "1.23.2", serves="target onnx"),
        Item("package", "coremltools", False, serves="target coreml", hint="pip install 'squeeze-export[coreml]'"),
        Item("device", "cpu", True, "Xeon"),
    ]
    monkeypatch.setattr("squeeze_export.cli.doctor.environment", lambda _: items)
    assert [" ".join(line.split()) for line in squeeze("doctor").out.splitlines()] == [
        "packages",
        "yes onnx 1.23.2 (target onnx)",
        "no coremltools not found (target coreml)",
        "hint: pip install 'squeeze-export[coreml]'",
        "devices",
        "yes cpu Xeon",
    ]
