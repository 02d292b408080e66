"""`squeeze-export verify`: exit codes, and what it prints."""

import json
from pathlib import Path

import pytest

OUT = Path("squeeze-export-out")


@pytest.fixture
def exported(squeeze, net):
    assert squeeze("tflite", *net, "--int8", "--no-validate", "--no-bench").code == 0
    return OUT / "squeezenet_custom.int8.tflite"


def test_a_file_as_it_was_exported(squeeze, exported):
    result = squeeze("verify", exported)
    assert result.code == 0
    head, checked = result.out.splitlines()
    assert head == f"{exported}: verified"
    assert checked.startswith(
        "  checked      sidecar, bytes, inputs and outputs, metadata, proof of INT8, golden outputs (litert, "
    )
    told = json.loads(squeeze("verify", OUT, "--json").out)
    assert [(one["file"], one["differences"]) for one in told] == [(str(exported), [])]


def test_a_changed_file(squeeze, exported):
    data = bytearray(exported.read_bytes())
    data[len(data) // 2] ^= 4
    exported.write_bytes(data)
    result = squeeze("verify", OUT)
    assert result.code == 5
    assert result.out.startswith(
        f"{exported}: differs\n  differs      `{exported.name}`: its bytes differ from the sidecar's SHA-256: "
    )
    told = json.loads(squeeze("verify", exported, "--json").out)
    assert len(told[0]["differences"]) == 1


def test_what_cannot_be_compared_here(squeeze, exported, monkeypatch):
    from squeeze_export.errors import Unavailable
    from squeeze_export.pipeline import verifying

    def absent(artifact):
        raise Unavailable("no runtime")

    monkeypatch.setattr(verifying, "_opened", absent)
    result = squeeze("verify", exported)
    assert result.code == 3
    assert "not all checked\n  not checked  golden outputs: no runtime" in result.out


def test_bad_input(squeeze, exported):
    assert squeeze("verify", "nothere").code == 2
    Path(f"{exported}.json").unlink()
    result = squeeze("verify", exported)
    assert (result.code, result.refusal()[1]) == (2, "name an exported file, a table, or a folder of them")
