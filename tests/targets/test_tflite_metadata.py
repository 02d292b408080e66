"""The metadata, read back with MediaPipe's own schema, and the labels file, read back as a zip."""

from __future__ import annotations

import io
import zipfile

import pytest

from squeeze_export.errors import BadInput
from squeeze_export.targets.tflite.metadata import LABELS_FILE, METADATA_NAME, model_metadata, with_files

LABELS = ("tench", "goldfish", "naïve")


def read(content: bytes):  # type: ignore[no-untyped-def]
    schema = pytest.importorskip("mediapipe.tasks.metadata.metadata_schema_py_generated")
    assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(content, 0)
    return schema, schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(content))


def metadata(labels: tuple[str, ...] = LABELS, *, grey: bool = False) -> bytes:
    return model_metadata(name="net", description="net, int8", size_px=(227, 224), grey=grey, output="logits", labels=labels)


def test_every_field_is_what_mediapipe_reads() -> None:
    schema, model = read(metadata())
    assert (model.name, model.description, model.minParserVersion) == (b"net", b"net, int8", b"1.0.0")
    (subgraph,) = model.subgraphMetadata
    (image,), (logits,) = subgraph.inputTensorMetadata, subgraph.outputTensorMetadata
    properties = image.content.contentProperties
    assert image.content.contentPropertiesType == schema.ContentProperties.ImageProperties
    assert properties.colorSpace == schema.ColorSpaceType.RGB
    assert (properties.defaultSize.width, properties.defaultSize.height) == (227, 224)
    (unit,) = image.processUnits
    assert unit.optionsType == schema.ProcessUnitOptions.NormalizationOptions
    assert (list(unit.options.mean), list(unit.options.std)) == ([0.0], [1.0])
    assert (list(image.stats.min), list(image.stats.max)) == ([0.0], [255.0])
    assert logits.name == b"logits"
    assert logits.content.contentPropertiesType == schema.ContentProperties.FeatureProperties
    (file,) = logits.associatedFiles
    assert (file.name, file.type) == (b"labels.txt", schema.AssociatedFileType.TENSOR_AXIS_LABELS)


def test_a_grey_image_is_told_as_one() -> None:
    schema, model = read(metadata(grey=True))
    (image,) = model.subgraphMetadata[0].inputTensorMetadata
    assert image.content.contentProperties.colorSpace == schema.ColorSpaceType.GRAYSCALE
    assert image.description.startswith(b"Grey pixels")


def test_without_labels_no_file_is_announced_or_appended() -> None:
    _, model = read(metadata(()))
    assert model.subgraphMetadata[0].outputTensorMetadata[0].associatedFiles is None
    assert with_files(b"model", {}) == b"model"


def test_a_label_of_two_lines_is_refused() -> None:
    with pytest.raises(BadInput, match=r"`'a\\nb'` has more than one line"):
        metadata(("a\nb",))


def test_files_are_appended_stored_and_dateless(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {LABELS_FILE: "".join(f"{label}\n" for label in LABELS).encode()}
    result = with_files(b"TFL3 model", files)
    assert result.startswith(b"TFL3 model")
    with zipfile.ZipFile(io.BytesIO(result)) as archive:
        (entry,) = archive.infolist()
        assert archive.read(entry).decode().splitlines() == list(LABELS)
        assert (entry.compress_type, entry.date_time[0]) == (zipfile.ZIP_STORED, 1980)
        assert entry.header_offset == len(b"TFL3 model")
    monkeypatch.setattr("sys.platform", "win32")
    assert with_files(b"TFL3 model", files) == result


def test_the_name_is_the_one_that_readers_look_for() -> None:
    assert METADATA_NAME == "TFLITE_METADATA"
