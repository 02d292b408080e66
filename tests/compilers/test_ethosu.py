"""Vela: every figure is its own, every operator is accounted for, and what fails says why."""

from __future__ import annotations

import csv
import dataclasses
from importlib import metadata
from pathlib import Path

import pytest

from squeeze_export.compilers import compiler_named, ethosu
from squeeze_export.compilers.ethosu import vela
from squeeze_export.compilers.ethosu.figures import estimate_of
from squeeze_export.compilers.ethosu.operators import placement_of
from squeeze_export.compilers.ethosu.settings import DEFAULTS, STRATEGIES, choices_of
from squeeze_export.core import Artifact
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.quantized import INT8, INT8_NPU
from squeeze_export.pipeline import calibrate, export, lint_file, open_network
from squeeze_export.registry import COMPILERS

pytest.importorskip("ethosu", reason="Vela is not installed")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

OWN_INI = """
[System_Config.Board]
core_clock=250e6
axi0_port=Sram
axi1_port=OffChipFlash
Sram_clock_scale=1.0
Sram_burst_length=32
Sram_read_latency=32
Sram_write_latency=32
OffChipFlash_clock_scale=0.125
OffChipFlash_burst_length=128
OffChipFlash_read_latency=64
OffChipFlash_write_latency=0
[Memory_Mode.Mine]
const_mem_area=Axi1
arena_mem_area=Axi0
cache_mem_area=Axi0
"""
FAST = {"optimise": "Performance"}
SUMMARY_MEMORIES = ("sram", "dram", "on_chip_flash", "off_chip_flash")


@pytest.fixture(scope="module")
def demo_file(tmp_path_factory) -> Artifact:
    """The demo network in int8 throughout."""
    network = open_network()
    quantized = calibrate(network, None, scheme=INT8_NPU).quantized
    return export(quantized, "tflite", INT8_NPU, tmp_path_factory.mktemp("demo"), name="demo")[0]


@pytest.fixture(scope="module")
def tiny_files(tiny, tmp_path_factory) -> dict[str, Artifact]:
    """The tiny network: int8 throughout, with its pool in float, and with a convolution in float as well."""
    network, out = open_network(tiny / "tiny.safetensors"), tmp_path_factory.mktemp("files")
    found = {}
    for name, scheme, kept in (("npu", INT8_NPU, ()), ("int8", INT8, ()), ("kept", INT8, ("fire3/squeeze1x1",))):
        quantized = calibrate(network, tiny / "calib", scheme=scheme, keep_float=kept).quantized
        found[name] = export(quantized, "tflite", scheme, out, name=name)[0]
    return found


@pytest.fixture(scope="module")
def compiled(tiny_files, tmp_path_factory):
    """The tiny files compiled for the first accelerator."""
    return {
        name: ethosu.compile_for(file, ethosu.CHIPS[0], FAST, tmp_path_factory.mktemp(name)) for name, file in tiny_files.items()
    }


@pytest.fixture
def own_ini(tmp_path) -> Path:
    """A configuration of one's own, with one system and one memory mode."""
    path = tmp_path / "board.ini"
    path.write_text(OWN_INI)
    return path


def output(folder: Path) -> tuple[dict[str, str], list[list[str]]]:
    """Vela's own CSV files of one strategy: the summary by column, and the rows of the other."""
    (summary,) = folder.glob("out/*_summary_*.csv")
    (layers,) = folder.glob("out/*_per-layer.csv")
    with summary.open(newline="") as file:
        (row,) = csv.DictReader(file)
    return row, [line.split(",", 15) for line in layers.read_text().splitlines()[1:]]


@pytest.mark.parametrize("chip", ethosu.CHIPS)
def test_every_figure_is_velas_and_every_operator_is_on_the_npu(chip, demo_file, tmp_path):
    aim = STRATEGIES[ethosu.CHIPS.index(chip) % 2]
    product = ethosu.compile_for(demo_file, chip, {"optimise": aim}, tmp_path)
    row, layers = output(tmp_path / aim)
    estimate, placement = product.estimate, product.placement
    assert (placement.device_count, placement.operator_count, placement.integer_count) == (39, 39, 39)
    assert (placement.integer_mac_share, placement.fallbacks, placement.float_operators) == (1.0, (), ())
    assert estimate.tool == f"Vela {metadata.version('ethos-u-vela')}"
    assert (estimate.settings["system_config"], estimate.settings["memory_mode"]) == DEFAULTS[chip]
    assert row["accelerator_configuration"].lower() == chip.replace("-", "_")
    assert estimate.cycles == int(row["cycles_total"]) == sum(layer.cycles for layer in estimate.layers)
    assert estimate.clock_mhz * 1e6 == float(row["core_clock"])
    assert estimate.inference_ms == pytest.approx(float(row["inference_time"]) * 1e3)
    assert estimate.inference_ms == pytest.approx(estimate.cycles / estimate.clock_mhz / 1e3)
    for memory in SUMMARY_MEMORIES:
        name = memory.replace("_", " ")
        assert estimate.used_bytes.get(name, 0) == float(row[f"{memory}_memory_used"]) * 1024
        moved = int(row[f"{memory}_total_bytes"])
        assert estimate.moved_bytes.get(name, 0) == moved
        assert estimate.moved_gb_s.get(name, 0) == pytest.approx(moved / float(row["inference_time"]) / 1e9)
    listed = [(layer.operator, layer.name, layer.device, layer.cycles, layer.macs) for layer in estimate.layers]
    assert listed == [(r[0], r[15], r[2], int(r[5]), int(r[12])) for r in layers if int(r[5])]
    assert [100 * layer.mac_use for layer in estimate.layers] == pytest.approx([float(r[14]) for r in layers if int(r[5])])
    assert sum(layer.macs for layer in estimate.layers) == int(row["nn_macs"])


def test_the_first_chip_is_the_default_and_all_are_velas():
    features = pytest.importorskip("ethosu.vela.architecture_features")
    assert compiler_named("ethosu").CHIPS[0] == "ethos-u55-128"
    assert set(ethosu.CHIPS) == set(features.Accelerator.member_list())
    assert COMPILERS["ethosu"] == ethosu.__name__


def test_the_same_file_gives_the_same_bytes(tiny_files, compiled, tmp_path):
    assert ethosu.compile_for(tiny_files["npu"], ethosu.CHIPS[0], FAST, tmp_path).content == compiled["npu"].content


def test_size_takes_less_memory_and_more_cycles(demo_file, tmp_path):
    fast, small = (
        ethosu.compile_for(demo_file, "ethos-u55-128", {"optimise": aim}, make(tmp_path / aim)) for aim in ("Performance", "Size")
    )
    assert small.settings["optimise"] == "Size"
    assert small.estimate.used_bytes["sram"] < fast.estimate.used_bytes["sram"]
    assert small.estimate.cycles > fast.estimate.cycles


def test_of_both_strategies_the_one_of_fewer_cycles_is_kept(demo_file, tmp_path):
    check_fewest(demo_file, "ethos-u55-128", "Performance", tmp_path)


def check_fewest(file: Artifact, chip: str, best: str, folder: Path):
    """Where no strategy is asked for, the best one's product and figures are what is given."""
    product = ethosu.compile_for(file, chip, {}, folder)
    cycles = {aim: int(output(folder / aim)[0]["cycles_total"]) for aim in STRATEGIES}
    assert cycles[best] < max(cycles.values())
    assert (product.estimate.cycles, product.settings["optimise"]) == (cycles[best], best)
    assert product.content == next((folder / best).glob("out/*_vela.tflite")).read_bytes()


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


# --- operators that stay on the CPU


@pytest.mark.parametrize("name", ["npu", "int8", "kept"])
def test_lint_names_what_vela_leaves_to_the_cpu(name, tiny_files, compiled):
    """The rules, read from Vela's report, and Vela itself."""
    left = {" ".join(text.split()[:2]) for text in compiled[name].placement.elsewhere}  # `type name`, then where and why
    said = {finding.operator for finding in lint_file(tiny_files[name].path, "ethosu") if finding.severity == "fall-back"}
    assert said == left
    assert bool(left) == (name != "npu")


def test_the_float_pool_of_int8_is_named_with_its_reason(compiled):
    placement = compiled["int8"].placement
    assert placement.operator_count - placement.device_count == 2
    dequantize, mean = placement.fallbacks
    assert dequantize == "DEQUANTIZE conv10/float on the CPU: Unsupported opType"
    assert mean.startswith("MEAN logits on the CPU: Operation has tensor with unsupported DataType Float32 (conv10/float)")
    assert mean.endswith('; Feature-map dataTypes must be one of {"INT16", "INT32", "INT64", "INT8", "UINT8"}')
    assert placement.elsewhere == placement.fallbacks
    assert placement.integer_mac_share == 1.0


def test_a_planted_float_operator_is_named_with_its_reason(compiled, tiny_files):
    placement = compiled["kept"].placement
    (found,) = (name for name in placement.fallbacks if name.startswith("CONV_2D fire3/squeeze1x1 "))
    assert "on the CPU: Operation has tensor with unsupported DataType Float32" in found
    assert placement.integer_mac_share < 1.0
    assert any(name.startswith("CONV_2D fire3/squeeze1x1") for name in placement.float_operators)
    estimate = compiled["kept"].estimate
    assert {layer.device for layer in estimate.layers} == {"NPU", "CPU"}
    assert all(layer.cycles == layer.mac_use == 0 for layer in estimate.layers if layer.device == "CPU")


def test_a_file_that_was_not_compiled_is_all_on_the_cpu(tiny_files):
    """Negative control of the count: what the written file still holds is not on the NPU."""
    network = tiny_files["npu"].path.read_bytes()
    placement = placement_of(network, network, "")
    assert (placement.device_count, placement.integer_count, placement.integer_mac_share) == (0, 0, 0.0)
    assert len(placement.fallbacks) == placement.operator_count


def test_an_operator_that_nobody_knows_is_refused(tiny_files):
    network = tiny_files["npu"].path.read_bytes()
    with pytest.raises(Refused, match="holds an operator that the network does not: `CONV_2D stranger`"):
        placement_of(network, renamed(network, b"conv1", b"stranger"), "")


def test_other_inputs_or_outputs_are_refused(tiny_files):
    network = tiny_files["npu"].path.read_bytes()
    with pytest.raises(Refused, match="changed the network's inputs or outputs"):
        placement_of(network, renamed(network, b"logits", b"scores"), "")
    with pytest.raises(Refused, match="cannot be read"):
        placement_of(network, b"TFL3 or not", "")


def renamed(content: bytes, old: bytes, new: bytes) -> bytes:
    """The file with a tensor of another name."""
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (tensor,) = (t for t in model.subgraphs[0].tensors if t.name == old)
    tensor.name = new
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# --- what the chip is taken to be


@pytest.mark.parametrize(
    ("chip", "settings", "message", "hint"),
    [
        ("ethos-u56", {}, "no Ethos-U is called `ethos-u56`", "ethos-u85-2048"),
        ("ethos-u55-128", {"clock": "1"}, "no setting `clock`", "memory_mode"),
        ("ethos-u55-128", {"optimise": "Speed"}, "does not optimise for `Speed`", "Performance, Size or auto"),
        ("ethos-u55-128", {"system_config": "Mine"}, "`vela.ini` defines no system config `Mine`", "Ethos_U55_Deep_Embedded"),
        ("ethos-u55-128", {"memory_mode": "Mine"}, "`vela.ini` defines no memory mode `Mine`", "Sram_Only"),
    ],
)
def test_what_is_not_known_is_refused(chip, settings, message, hint):
    with pytest.raises(BadInput, match=message) as caught:
        ethosu.check(chip, settings)
    assert hint in caught.value.hint


def test_every_default_is_in_velas_own_file():
    for chip in ethosu.CHIPS:
        ethosu.check(chip, {})


def test_a_configuration_of_ones_own(own_ini, tiny_files, tmp_path):
    settings = {"config": str(own_ini), "system_config": "Board", "memory_mode": "Mine"}
    product = ethosu.compile_for(tiny_files["npu"], "ethos-u55-32", settings, make(tmp_path / "work"))
    assert product.estimate.clock_mhz == 250
    assert product.settings["config"] == "board.ini"
    assert len(product.settings["config_sha256"]) == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[System_Config.Board\ncore_clock", "`.*` is not a Vela configuration"),
        (OWN_INI.replace("core_clock=250e6", ""), "gives `Board` no `core_clock`"),
        (OWN_INI.replace("[Memory_Mode.Mine]", "[Memory_Mode.Other]"), "defines no memory mode `Mine`"),
        ("[a]\n" * 300_000, "is larger than"),
        ("\0\1", "is not a Vela configuration"),
    ],
)
def test_a_broken_configuration(text, message, own_ini):
    own_ini.write_text(text)
    with pytest.raises(BadInput, match=message):
        ethosu.check("ethos-u55-32", {"config": str(own_ini), "system_config": "Board", "memory_mode": "Mine"})


def test_a_configuration_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        ethosu.check("ethos-u55-32", {"config": str(tmp_path / "none.ini")})
    with pytest.raises(BadInput, match=r"does not end in `\.ini`"):
        ethosu.check("ethos-u55-32", {"config": str(tmp_path / "vela.toml")})


def test_the_defaults_are_looked_for_in_the_users_file_too(own_ini):
    with pytest.raises(BadInput, match="defines no system config `Ethos_U55_High_End_Embedded`") as caught:
        ethosu.check("ethos-u55-32", {"config": str(own_ini)})
    assert caught.value.hint == "--system-config with one of: Board"


def test_without_vela(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(Unavailable, match="Vela is not installed") as caught:
        ethosu.check("ethos-u55-128", {})
    assert caught.value.hint == "pip install 'squeeze-export[ethosu]'"


def test_other_files_are_refused(tiny_files, tmp_path):
    for changes in ({"scheme": "int16x8"}, {"target": "onnx"}):
        with pytest.raises(BadInput, match="Vela does not take"):
            ethosu.compile_for(dataclasses.replace(tiny_files["npu"], **changes), "ethos-u55-128", {}, tmp_path)


# --- a Vela that fails


def test_velas_own_failure_has_its_last_words(own_ini, tiny_files, tmp_path):
    own_ini.write_text(OWN_INI.replace("axi0_port=Sram", "axi0_port=Nowhere"))
    settings = {"config": str(own_ini), "system_config": "Board", "memory_mode": "Mine"}
    with pytest.raises(Refused, match="Vela for `ethos-u55-32` failed: exit code 1, KeyError: 'Nowhere'"):
        ethosu.compile_for(tiny_files["npu"], "ethos-u55-32", settings, make(tmp_path / "work"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import time; time.sleep(60)", "Vela for `ethos-u55-128` did not finish within 1 s"),
        ("import os; os.kill(os.getpid(), 11)", "Vela for `ethos-u55-128` failed: ended by SIGSEGV"),
        ("print('half done')", "Vela for `ethos-u55-128` did not write what it should: exit code 0, half done"),
        ("raise SystemExit(3)", "Vela for `ethos-u55-128` failed: exit code 3"),
        (
            "print('x' * 5_000_000); raise SystemExit('the `end`')",
            "Vela for `ethos-u55-128` failed: exit code 1, the 'end'",
        ),
    ],
)
def test_another_vela_in_its_place(code, message, tiny_files, tmp_path, monkeypatch):
    (tmp_path / "vela_in_its_place.py").write_text(code)
    ours = vela.our_python
    monkeypatch.setattr(vela, "our_python", lambda _, *arguments: ours("vela_in_its_place", *arguments))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(vela, "TIMEOUT_S", 1.0 if "sleep" in code else 60.0)
    with pytest.raises(Refused, match=message):
        ethosu.compile_for(tiny_files["npu"], "ethos-u55-128", {}, make(tmp_path / "work"))


def test_figures_of_something_else_are_refused(tiny_files, tmp_path):
    ethosu.compile_for(tiny_files["npu"], "ethos-u55-128", FAST, tmp_path)
    (summary,) = (path.read_text() for path in tmp_path.glob("*/out/*_summary_*.csv"))
    (layers,) = (path.read_text() for path in tmp_path.glob("*/out/*_per-layer.csv"))
    choice, _ = choices_of("ethos-u55-128", {})
    assert estimate_of(summary, layers, choice, version="5").tool == "Vela 5"
    with pytest.raises(Refused, match=r"compiled for `ethos-u55-128 .*`, not for `ethos-u55-256 "):
        estimate_of(summary, layers, choices_of("ethos-u55-256", {})[0], version="5")
    for broken in (
        summary.replace("cycles_total", "cycles_whole"),
        summary.splitlines()[0],
        summary.replace("Ethos_U55_128", "x,y"),
    ):
        with pytest.raises(Refused):
            estimate_of(broken, layers, choice, version="5")
    with pytest.raises(Refused, match="cannot be read"):
        estimate_of(summary, layers.replace("Op Cycles", "Cycles"), choice, version="5")


def test_a_name_with_commas_stays_whole(tiny_files, tmp_path):
    ethosu.compile_for(tiny_files["npu"], "ethos-u55-128", FAST, tmp_path)
    (summary,) = (path.read_text() for path in tmp_path.glob("*/out/*_summary_*.csv"))
    (layers,) = (path.read_text() for path in tmp_path.glob("*/out/*_per-layer.csv"))
    found = estimate_of(summary, layers.replace(",conv1\n", ",conv,1\n"), choices_of("ethos-u55-128", {})[0], version="5")
    assert "conv,1" in {layer.name for layer in found.layers}


# --- real weights


def test_real_weights(assets, tmp_path):
    network = open_network(assets / "weights" / "squeezenet1_1.safetensors")
    folder = make(tmp_path / "calib")
    for file in sorted((assets / "images" / "calib").iterdir())[:16]:
        (folder / file.name).symlink_to(file)
    quantized = calibrate(network, folder, scheme=INT8_NPU).quantized
    artifact, _ = export(quantized, "tflite", INT8_NPU, tmp_path, name="real")
    product = ethosu.compile_for(artifact, "ethos-u55-128", FAST, make(tmp_path / "work"))
    row, _ = output(tmp_path / "work" / "Performance")
    assert (product.placement.device_count, product.placement.operator_count) == (39, 39)
    assert product.estimate.cycles == int(row["cycles_total"])
    assert 4_000_000 < product.estimate.cycles < 6_000_000
    check_fewest(artifact, "ethos-u65-512", "Size", make(tmp_path / "both"))
