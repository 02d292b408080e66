"""`squeeze-export analyze` as it is typed."""

import json
from pathlib import Path


def test_the_table_is_on_stdout_and_the_files_in_out(net, tiny, squeeze, tmp_path):
    result = squeeze("analyze", *net, "--eval", tiny / "eval", "--images", 4, "--out", "found")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("integers against fp32 on 8 images: ")
    assert lines[1].startswith("simulated on 4 of them: ")
    assert lines[3].split()[:4] == ["layer", "weights", "output", "without"]
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"analysis.json", "analysis.html"}
    assert result.err.count("wrote ") == 2
    document = json.loads((tmp_path / "found" / "analysis.json").read_text())
    assert document["layers"][0]["name"] == lines[4].split()[0]
    assert document["evaluation"]["image_count"] == 8


def test_what_another_network_left_in_out_is_kept(net, tiny, squeeze):
    asked = ("--eval", tiny / "eval", "--images", 1, "--no-bench", "--out", "found")
    other = ("--weights", tiny / "other.safetensors", *net[2:])
    keeping = (*asked, "--keep-float", "conv1")
    first = squeeze("analyze", *net, *keeping)
    table = Path("found/squeezenet_custom.int8.table")
    mine = json.loads(Path("found/analysis.json").read_text())["network"]["checkpoint_sha256"]
    again = squeeze("analyze", *net, *asked)
    assert "another" not in first.err + again.err
    page = Path("found/analysis.html").read_bytes()
    result = squeeze("analyze", *other, *keeping)
    kept = Path(f"found/analysis-squeezenet_custom-{mine[:8]}.json")
    assert f"found/analysis.json was of another network: it is kept as {kept}\n" in result.err
    assert f"`{table}` of another checkpoint was replaced" in result.err
    assert json.loads(kept.read_text())["network"]["checkpoint_sha256"] == mine
    assert kept.with_suffix(".html").read_bytes() == page
    assert json.loads(Path("found/analysis.json").read_text())["network"]["checkpoint_sha256"] != mine


def test_json_from_a_table(net, tiny, squeeze):
    assert squeeze("calibrate", *net, "--out", "a").code == 0
    (table,) = Path("a").glob("*.table")
    result = squeeze("analyze", "--weights", tiny / "tiny.safetensors", "--table", table, "--eval", tiny / "eval", "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["part_count"] == 8
    assert len(document["worst"]) == 3


def test_without_other_images_stderr_says_so(net, squeeze):
    result = squeeze("analyze", *net, "--images", 1)
    assert result.code == 0
    assert "analysed on 20 images: these are the calibration images" in result.err


def test_refusals(net, tiny, squeeze):
    result = squeeze("analyze", "--weights", tiny / "tiny.safetensors")
    assert result.code == 2
    assert result.out == ""
    assert "calibration images" in result.refusal()[0]
    result = squeeze("analyze", *net, "--images", 0)
    assert (result.code, result.refusal()[1]) == (2, "--images 32")
