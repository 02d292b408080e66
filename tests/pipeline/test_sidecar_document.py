"""Sidecars: one form with a checksum, any flipped bit is found, and those of earlier versions are read."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from squeeze_export.errors import BadInput
from squeeze_export.graph.golden import golden
from squeeze_export.graph.quantized import INT8
from squeeze_export.pipeline import export, read_artifact
from squeeze_export.pipeline.sidecar_document import read_sidecar, sidecar_bytes, sidecar_difference, sidecar_path

NEW = ("schema_version", "pieces", "constants", "golden", "checksum")


@pytest.fixture
def artifact(quantized, tmp_path):
    return export(quantized, "tflite", INT8, tmp_path, name="net")[0]


@pytest.fixture
def sidecar(artifact):
    return sidecar_path(artifact.path)


def test_it_ends_with_the_checksum_of_all_that_is_before(sidecar):
    lines = sidecar.read_bytes().splitlines(keepends=True)
    assert lines[-1] == b"}\n"
    assert json.loads(b"{" + lines[-2] + b"}") == {"checksum": hashlib.sha256(b"".join(lines[:-2])).hexdigest()}
    found, wrong, lacks = sidecar_difference(sidecar)
    assert (wrong, lacks) == ("", "")
    assert sidecar_bytes(found) == sidecar.read_bytes()


def test_what_it_holds(sidecar, artifact, quantized):
    found = read_sidecar(sidecar)
    data = artifact.path.read_bytes()
    assert found.pieces == {
        artifact.path.name: tuple(hashlib.sha256(data[at : at + 65536]).hexdigest()[:16] for at in (0, 65536))[
            : -(-len(data) // 65536)
        ]
    }
    weight = quantized.convs[0].weight.transpose(0, 2, 3, 1)
    assert found.constants["conv1/weight"] == hashlib.sha256(np.ascontiguousarray(weight).tobytes()).hexdigest()[:16]
    assert found.golden == golden(quantized, INT8)


def test_any_flipped_bit_is_found(sidecar):
    written = sidecar.read_bytes()
    draw = np.random.default_rng(5)
    places = [*range(40), *range(len(written) - 85, len(written)), *draw.integers(40, len(written) - 85, 60)]
    for place in places:
        bit = 1 << int(draw.integers(8))
        sidecar.write_bytes(written[:place] + bytes([written[place] ^ bit]) + written[place + 1 :])
        assert sidecar_difference(sidecar)[1], (place, bit)


def test_labels_that_are_not_ascii_and_undecodable_names_are_in_the_form(sidecar):
    named = replace(read_sidecar(sidecar), labels=("ä", "雪", "\udc80", "\n", '"'), file="\udc80.tflite")
    sidecar.write_bytes(sidecar_bytes(named))
    assert sidecar_difference(sidecar) == (named, "", "")


def test_one_of_an_earlier_version_is_read_and_says_what_it_lacks(sidecar, artifact):
    values = {key: value for key, value in json.loads(sidecar.read_text()).items() if key not in NEW}
    del values["audit"]["untold"]
    sidecar.write_text(json.dumps(values, indent=1))
    found, wrong, lacks = sidecar_difference(sidecar)
    assert (wrong, found.golden, found.schema_version) == ("", None, 2)
    assert lacks == "an earlier version wrote it, without a checksum, hashes of the file's regions and golden outputs"
    assert read_artifact(artifact.path) == artifact


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema_version": 3}, "schema version `3`"),
        ({"labels": [1]}, "labels[0]"),
        ({"golden": {"logits": ""}}, "golden"),
        ({"more": 1}, "`more`"),
        ({"size_bytes": "1"}, "size_bytes"),
    ],
)
def test_what_is_no_sidecar_is_named(change, why, sidecar):
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | change))
    with pytest.raises(BadInput, match="is damaged") as caught:
        read_sidecar(sidecar)
    assert why in caught.value.message
    assert sidecar_difference(sidecar)[:2] == (None, caught.value.message)
