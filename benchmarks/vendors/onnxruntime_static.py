"""ONNX Runtime's own static quantization (QDQ, per channel, min-max) of an fp32 file: python -m ... FP32 CALIB OUT [bare].

Its documentation, and a warning that it prints, ask for a pre-processing step first; `bare` leaves that out.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(fp32: Path, calib: Path, out: Path, *, bare: bool) -> None:
    """Calibrates on the folder's images and writes the quantized file."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from squeeze_export.core import TORCHVISION
    from squeeze_export.images.folders import open_calibration
    from squeeze_export.images.stream import load_all

    if not bare:
        prepared = out.with_suffix(".prepared.onnx")
        quant_pre_process(str(fp32), str(prepared))
        fp32 = prepared
    pixels = load_all(open_calibration(calib), TORCHVISION)[0].pixels
    name = ort.InferenceSession(str(fp32), providers=["CPUExecutionProvider"]).get_inputs()[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands over one image at a time."""

        def __init__(self) -> None:
            self._images = iter(pixels)

        def get_next(self) -> dict[str, object] | None:
            image = next(self._images, None)
            return None if image is None else {name: image[None]}

    quantize_static(
        str(fp32),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]), bare="bare" in sys.argv[4:])
