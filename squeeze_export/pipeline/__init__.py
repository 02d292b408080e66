"""The jobs: what the command line offers, as typed functions. This is the public Python API.

from squeeze_export.pipeline import Job, run

report = run(Job(targets=("tflite",), scheme="int8", weights="squeezenet1_1.pth", calib=Path("imgs")))
"""

from squeeze_export.nets.architecture import StructureChoice
from squeeze_export.pipeline.analysis import analyze
from squeeze_export.pipeline.calibration import Calibration, CalibrationFolder, calibrate, read_calibration, write_table
from squeeze_export.pipeline.comparing import compare_files
from squeeze_export.pipeline.compiling import run_compiled
from squeeze_export.pipeline.curve import calibration_curve
from squeeze_export.pipeline.export import audit_file, export, read_artifact
from squeeze_export.pipeline.gating import Against, Bounds, gate, update_baseline, write_settings
from squeeze_export.pipeline.job import Job, run
from squeeze_export.pipeline.linting import lint_file
from squeeze_export.pipeline.network import Network, PreprocessChoice, open_network
from squeeze_export.pipeline.placement import check_full_placement
from squeeze_export.pipeline.portability import validate_portability
from squeeze_export.pipeline.scale import Scale
from squeeze_export.pipeline.sessions import RunOptions
from squeeze_export.pipeline.validation import bench_files, validate_files
from squeeze_export.pipeline.verifying import verify

__all__ = [
    "Against",
    "Bounds",
    "Calibration",
    "CalibrationFolder",
    "Job",
    "Network",
    "PreprocessChoice",
    "RunOptions",
    "Scale",
    "StructureChoice",
    "analyze",
    "audit_file",
    "bench_files",
    "calibrate",
    "calibration_curve",
    "check_full_placement",
    "compare_files",
    "export",
    "gate",
    "lint_file",
    "open_network",
    "read_artifact",
    "read_calibration",
    "run",
    "run_compiled",
    "update_baseline",
    "validate_files",
    "validate_portability",
    "verify",
    "write_settings",
    "write_table",
]
