"""What bad input gets: one `error:` line, a `hint:` line, the right exit code, and nothing half-written.

The list is that of the design's "What bad input gets".
"""

import errno
import http.server
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save, save_file

from squeeze_export import demo
from squeeze_export.cli import main
from squeeze_export.images.checks import MIN_CALIBRATION_COUNT

OUT = Path("squeeze-export-out")


def copy_images(source, target, count=None):
    """Images that a test may change."""
    target.mkdir(parents=True)
    for file in sorted(source.iterdir())[:count]:
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.fixture
def refused(squeeze):
    """Runs a command that must fail with this code and leave no file; gives the message and the hint."""

    def call(*arguments, code=2, leaves=()):
        result = squeeze(*arguments)
        assert (result.code, result.out) == (code, ""), result
        assert "Traceback" not in result.err
        written = {path.name for path in OUT.rglob("*")} if OUT.is_dir() else set()
        assert written == set(leaves)
        return result.refusal()

    return call


# --- checkpoints


def tensors(tiny):
    return load_file(tiny / "tiny.safetensors")


def test_weights_that_are_no_squeezenet(refused, tmp_path):
    save_file({"layer1.0.conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, tmp_path / "resnet.safetensors")
    message, hint = refused("tflite", "--weights", "resnet.safetensors")
    assert message == (
        "`resnet.safetensors` has `1` convolutions and linear layers, and a SqueezeNet has 5 at least; "
        "its tensors: `layer1.0.conv1.weight` 64x3x7x7"
    )
    assert hint.startswith("export it with torch.onnx.export and give the .onnx file")


def test_the_first_tensor_that_is_missing_is_named(refused, tmp_path, tiny):
    some = tensors(tiny)
    del some["features.3.squeeze.bias"]
    save_file(some, tmp_path / "torn.safetensors")
    assert "no tensor `features.3.squeeze.bias`" in refused("inspect", "--weights", "torn.safetensors")[0]


def test_weights_that_are_not_finite(refused, tmp_path, tiny):
    some = tensors(tiny)
    some["classifier.1.bias"][2] = np.nan
    save_file(some, tmp_path / "nan.safetensors")
    assert refused("onnx", "--weights", "nan.safetensors")[0] == "tensor `classifier.1.bias` holds values that are not finite"


def test_an_onnx_file_with_a_foreign_operator(refused, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    value = [helper.make_tensor_value_info(name, 1, [1, 3, 32, 32]) for name in ("input", "output")]
    node = helper.make_node("Elu", ["input"], ["output"], name="elu1")
    onnx.save(helper.make_model(helper.make_graph([node], "g", value[:1], value[1:])), tmp_path / "foreign.onnx")
    message, _ = refused("tflite", "--weights", "foreign.onnx")
    assert "Elu" in message


def overlong_header(tiny):
    return struct.pack("<Q", 2**60) + b"{}"


def cut(tiny):
    data = (tiny / "tiny.safetensors").read_bytes()
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.safetensors", cut, "is no safetensors file, or is cut short"),
        ("huge.safetensors", overlong_header, "is no safetensors file, or is cut short"),
        ("empty.safetensors", b"", "is no safetensors file, or is cut short"),
        ("cut.pth", b"PK\x03\x04" + bytes(90), "is no torch checkpoint, or is cut short"),
        ("empty.pth", b"", "is no torch checkpoint, or is cut short"),
        ("cut.onnx", b"\x08\x07\x12\xff\xff", "`cut.onnx`"),
        ("cut.net", b"\x01\x02\x03", "`cut.net`"),
        ("photo.jpg", b"", "`photo.jpg` is not a checkpoint of a supported format"),
    ],
)
def test_damaged_checkpoints(name, content, message, refused, tmp_path, tiny):
    (tmp_path / name).write_bytes(content(tiny) if callable(content) else content)
    assert message in refused("tflite", "--weights", name)[0]


class Evil:
    """Touches a file when it is unpickled."""

    def __reduce__(self):
        return (os.system, ("touch pwned",))


@pytest.mark.parametrize("form", ["zip", "bare"])
def test_code_in_a_checkpoint_is_never_run(form, refused, tmp_path):
    path = tmp_path / "evil.pth"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("evil/data.pkl", pickle.dumps(Evil(), protocol=2))
    else:
        path.write_bytes(b"".join(pickle.dumps(v, protocol=2) for v in (0x1950A86A20F9469CFC6C, 1001, {}, Evil())))
    message, hint = refused("tflite", "--weights", "evil.pth")
    assert "holds code or an object" in message
    assert "system" in message
    assert hint == "save the state dict alone: torch.save(model.state_dict(), 'weights.pth')"
    assert not Path("pwned").exists()
    pickle.loads(pickle.dumps(Evil()))  # the control: it would have been run
    assert Path("pwned").exists()


def test_a_checkpoint_that_is_not_there(refused):
    assert refused("tflite", "--weights", "nothere.pth")[0] == "`nothere.pth` is not there, where a checkpoint file is needed"
    message, hint = refused("tflite", "--weights", "squeezenet2")
    assert message == "`squeezenet2` is neither a file nor named weights"
    assert hint == "named weights: squeezenet1_0, squeezenet1_1"


def test_a_bypass_that_the_file_denies(refused, net):
    assert refused("tflite", *net, "--bypass", "simple")[0] == "bypass `simple` was asked for, but the file says `none`"


# --- wrong hashes


@contextmanager
def served(content):
    """A web server that answers every request with these bytes; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_download_with_a_wrong_hash(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(b"not the weights") as address:
        message, hint = refused("weights", "squeezenet1_1", "--mirror", address)
    assert "which does not begin with b8a52dc0; it was removed" in message
    assert hint == "run the command again to download it anew"
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_server_that_is_not_there(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    message, hint = refused("weights", "squeezenet1_0", "--mirror", "http://127.0.0.1:9", code=3)
    assert "cannot be reached" in message
    assert hint == "download it elsewhere and give the file with --weights FILE"


@pytest.fixture
def exported(squeeze, net):
    """An int8 file, its sidecar and its report."""
    assert squeeze("onnx", *net, "--int8", "--no-validate", "--no-bench").code == 0
    return OUT / "squeezenet_custom.int8.onnx"


@pytest.mark.parametrize("command", ["bench", "validate"])
def test_a_file_that_is_not_its_sidecars(command, squeeze, exported):
    exported.write_bytes(exported.read_bytes() + b"\0")
    result = squeeze(command, exported)
    assert result.code == 2
    assert result.refusal() == (
        f"`{exported}` is not the file that its sidecar describes (SHA-256 differs)",
        "export it again with this tool",
    )


def test_a_file_without_a_sidecar(squeeze, exported):
    exported.with_name(f"{exported.name}.json").unlink()
    result = squeeze("bench", exported)
    assert (result.code, result.refusal()[1]) == (2, "export it again with this tool")


@pytest.mark.parametrize("text", ["", "[]", '{"target": "onnx"}', '{"target": "caffe"}', "null", "[" * 100_000], ids=range(6))
def test_a_damaged_sidecar(text, squeeze, exported):
    exported.with_name(f"{exported.name}.json").write_text(text)
    result = squeeze("bench", exported)
    assert result.code == 2
    assert f"the sidecar `{exported}.json` is damaged" in result.refusal()[0]


def test_validating_against_another_checkpoint(squeeze, exported, tiny):
    result = squeeze("validate", exported, "--weights", tiny / "other.safetensors", "--eval", tiny / "eval")
    assert result.code == 2
    assert result.refusal() == (
        "`squeezenet_custom.int8.onnx` was not made from `other.safetensors`",
        "name its checkpoint with --weights",
    )


def test_validating_without_images(squeeze, exported, net):
    assert squeeze("validate", exported, *net[:2]).refusal() == ("there are no images to validate on", "--eval DIR")


# --- tables


@pytest.fixture
def table(squeeze, net):
    """A table of the tiny network, outside the output folder."""
    assert squeeze("calibrate", *net, "--out", "tables").code == 0
    return Path("tables/squeezenet_custom.int8.table")


def test_a_table_of_another_checkpoint(refused, table, tiny):
    message, hint = refused("onnx", "--int8", "--table", table, "--weights", tiny / "other.safetensors")
    assert message == f"the table `{table}` was not made from `other.safetensors`"
    assert hint == "calibrate again, or name the right --weights"


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
def test_a_table_of_another_scheme(scheme, refused, table, net):
    message, hint = refused("onnx", "--scheme", scheme, "--table", table, *net[:2])
    assert message == f"the table `{table}` has the scheme `int8`, not `{scheme}`"
    assert hint == "--scheme int8, or leave out --table"


def test_a_table_of_other_preprocessing(refused, table, net):
    message, _ = refused("onnx", "--int8", "--table", table, *net[:2], "--mean", "1,2,3")
    assert message == f"the table `{table}` was made with other preprocessing than was asked for"


@pytest.mark.parametrize(("damage", "message"), [(lambda data: data[:99], "is not a quantization table"), (None, "cannot be read")])
def test_a_damaged_table(damage, message, refused, table):
    data = table.read_bytes()
    table.unlink()
    if damage:
        table.write_bytes(damage(data))
    text, hint = refused("onnx", "--int8", "--table", table)
    assert message in text
    assert hint.startswith("make one with: squeeze-export calibrate")


def test_a_checkpoint_is_no_table(refused, tiny):
    assert "is not a quantization table" in refused("onnx", "--int8", "--table", tiny / "tiny.safetensors")[0]


def test_a_table_cannot_choose_where_to_write(refused, table):
    """Its name becomes a file name."""
    data = table.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    metadata = json.loads(data[8:start])["__metadata__"]
    header = json.loads(metadata["squeeze_export_table"])
    header["provenance"]["network"] = "../escaped"
    del header["sha256"]  # as earlier versions wrote it
    arrays = load_file(table)
    table.write_bytes(save(arrays, {"squeeze_export_table": json.dumps(header)}))
    message, _ = refused("onnx", "--int8", "--table", table, "--no-bench")
    assert message == "the network's name `../escaped` is no file name"
    assert not list(Path().glob("escaped*"))


# --- image folders


def test_an_image_folder_that_is_not_there(refused, net):
    for option in ("--calib", "--eval"):
        message, hint = refused("tflite", "--int8", *net, option, "nowhere")
        assert message == "`nowhere` does not exist"
        assert hint.startswith("a folder of images, ")


def test_an_empty_image_folder(refused, net):
    Path("empty").mkdir()
    message, hint = refused("tflite", "--int8", *net[:2], "--calib", "empty")
    assert message == "`empty` holds no images"
    assert hint.startswith("looked for .jpg ")


def test_an_image_folder_that_cannot_be_read(refused, net, monkeypatch):
    Path("locked").mkdir()

    def scandir(path, original=os.scandir):
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)  # permissions do not bind root
    assert refused("tflite", "--int8", *net[:2], "--calib", "locked") == (
        "`locked` cannot be read (Permission denied)",
        "check its permissions",
    )


@pytest.mark.parametrize("option", ["--calib", "--eval"])
def test_broken_images_are_named_and_counted(option, squeeze, net, tiny):
    folder = copy_images(tiny / "calib" if option == "--calib" else tiny / "eval", Path("imgs"))
    for name in ("03.png", "05.png"):
        (folder / name).write_bytes(b"torn")
    count = len(list(folder.iterdir()))
    named = net[:2] if option == "--calib" else net
    result = squeeze("onnx", "--int8", *named, option, folder, "--rounds", 1)
    assert result.code == 2
    message, hint = result.refusal()
    assert message.startswith(f"`2` of `{count}` images cannot be read, the first is `03.png` (not one of JPEG, ")
    assert hint == "`--skip-broken` leaves them out"
    skipped = squeeze("onnx", "--int8", *named, option, folder, "--rounds", 1, "--skip-broken")
    assert skipped.code == 0
    kind = "calibration" if option == "--calib" else "evaluation"
    assert f"warning: `2` unreadable {kind} images were left out, the first is `03.png`\n" in skipped.err


def test_too_few_calibration_images(refused, net, tiny):
    folder = copy_images(tiny / "calib", Path("few"), MIN_CALIBRATION_COUNT - 1)
    message, hint = refused("tflite", "--int8", *net[:2], "--calib", folder)
    assert message == "`15` calibration images are too few"
    assert hint == "pass at least 16 to `--calib`, better 100 or more"


@pytest.mark.parametrize("others", ["calibration", "evaluation"])
def test_duplicate_images_are_left_out(others, squeeze, net, tiny):
    folder = copy_images(tiny / ("calib" if others == "calibration" else "eval"), Path("twice"))
    count = len(list(folder.iterdir()))
    (folder / "copy.png").write_bytes((folder / "03.png").read_bytes())
    named = (*net[:2], "--calib", folder) if others == "calibration" else (*net, "--eval", folder)
    result = squeeze("onnx", "--int8", *named, "--no-bench")
    assert result.code == 0
    assert result.err.count("duplicate") == 1
    assert f"warning: `1` duplicate {others} images were left out: `copy.png` shows the same as `03.png`\n" in result.err
    report = json.loads(Path("squeeze-export-out/report.json").read_text())
    assert report[others]["image_count"] == count
    assert report["measurements"][0]["accuracy"]["count"] == report["evaluation"]["image_count"]


def test_duplicates_may_leave_too_few(refused, net, tiny):
    folder = copy_images(tiny / "calib", Path("few"), MIN_CALIBRATION_COUNT - 1)
    (folder / "copy.png").write_bytes((folder / "03.png").read_bytes())
    message, _ = refused("calibrate", *net[:2], "--calib", folder)
    assert message == "`15` calibration images are too few, without the `1` that were left out"


def test_constant_calibration_images(refused, net, tiny):
    folder = copy_images(tiny / "calib", Path("flat"))
    Image.new("RGB", (40, 40), (9, 9, 9)).save(folder / "04.png")
    message, hint = refused("calibrate", *net[:2], "--calib", folder)
    assert message.startswith("`1` of `20` calibration images show a single colour, the first is ")
    assert "04.png" in message
    assert hint == "remove them: they say nothing about the ranges"


def test_evaluation_on_calibration_images(squeeze, net, tiny):
    result = squeeze("onnx", "--int8", *net, "--eval", tiny / "calib")
    assert result.code == 2
    message, hint = result.refusal()
    assert message.startswith("evaluation images are calibration images too: at least `16`, the first is ")
    assert hint == "remove them from `--eval` or from `--calib`"


def test_evaluation_on_images_of_the_table(squeeze, net, tiny, table):
    result = squeeze("onnx", "--int8", "--table", table, *net[:2], "--eval", tiny / "calib")
    assert "are calibration images too" in result.refusal()[0]


def test_integers_without_calibration_images(refused, net):
    for arguments in (("tflite", "--int8"), ("all", "--int8"), ("calibrate",)):
        assert refused(*arguments, *net[:2]) == (
            "integers need calibration images",
            "--calib DIR with a few hundred photographs, or --table FILE",
        )


# --- labels


def test_labels_that_do_not_match_the_class_count(refused, net):
    Path("four.txt").write_text("ant\nbee\ncat\ndog\n")
    message, hint = refused("tflite", *net, "--labels", "four.txt")
    assert message == "`4` labels for a network of `5` classes"
    assert hint == "pass `--labels` a file with one name a line, in index order"


def test_folders_that_are_no_class(refused, net, tiny):
    copy_images(tiny / "eval", Path("val/zebra"))
    message, hint = refused("tflite", *net, "--eval", "val", "--labels", tiny / "labels.txt")
    assert message == "`1` of `1` folders are not among the labels, the first is `zebra`"
    assert hint == "pass `--labels`, or `--classes` beside it, a file with the folders' names, one a line, in index order"


def test_folders_that_cannot_be_told_apart(refused, net, tiny):
    copy_images(tiny / "eval", Path("val/zebra"))
    assert refused("tflite", *net, "--eval", "val")[0] == "`1` folder cannot be matched to `5` classes"


# --- preprocessing


def test_preprocessing_that_plainly_does_not_fit(squeeze):
    result = squeeze("onnx", "--mean", "255,255,255", "--std", "2,2,2", "--no-bench")
    assert result.code == 0
    warnings = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "the fp32 reference itself scores only " in warnings[0]
    assert "--mean --std --channel-order --crop --resize --labels" in warnings[0]


def test_labels_in_another_order(squeeze):
    Path("reversed.txt").write_text("\n".join(reversed(demo.labels())))
    result = squeeze("onnx", "--labels", "reversed.txt", "--no-bench")
    assert "warning: the fp32 reference itself scores only " in result.err


def test_means_in_the_scale_of_0_to_1(refused, net):
    assert refused("tflite", *net, "--mean", "0.485,0.456,0.406") == (
        "--mean `0.485,0.456,0.406` looks like the 0 to 1 scale",
        "pixels are 0 to 255: --mean 123.675,116.28,103.53",
    )
    assert refused("tflite", *net, "--std", "0.229,0.224,0.225")[1] == "pixels are 0 to 255: --std 58.395,57.12,57.375"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--std", "58,0,57"), "--std `58,0,57` is no std of pixels"),
        (("--std", "58,-1,57"), "--std `58,-1,57` is no std of pixels"),
        (("--mean", "nan,1,2"), "--mean `nan,1,2` is no mean of pixels"),
        (("--mean", "1,2"), "`2` numbers for --mean; the network's images have `3` channels"),
        (("--crop", "40x"), "`40x` is neither a side in pixels nor height and width"),
        (("--crop", "40x30"), "an input of `40 x 30` px is outside 32 to 2048"),
        (("--crop", 64, "--resize", 48), "the short side is resized to `48` px, less than the crop of `64` px"),
        (("--crop", 16), "an input of `16` px is outside 32 to 2048"),
        (("--crop", 0), "a crop of `0` px has no pixels"),
    ],
)
def test_preprocessing_out_of_range(arguments, message, refused, net):
    assert message in refused("tflite", *net, *arguments)[0]


# --- output


@pytest.mark.parametrize("command", [("tflite", "--int8"), ("calibrate",)])
@pytest.mark.parametrize("folder", ["taken/out", "/dev/null/out", "/proc/squeeze"])
def test_an_output_folder_that_cannot_be_written(command, folder, refused, net):
    Path("taken").write_bytes(b"")
    message, hint = refused(*command, *net, "--out", folder)
    assert message.startswith(f"cannot write `{folder}`: ")
    assert hint == "choose another folder with --out"


def full_disk(monkeypatch, *names):
    """A disk that takes half of every file with one of these texts in its name."""

    def write(path, data, original=Path.write_bytes):
        if not any(name in path.name for name in names):
            return original(path, data)
        original(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write)


@pytest.mark.parametrize("part", [".int8.onnx.", ".int8.onnx.json."])
def test_a_full_disk(part, refused, net, monkeypatch):
    full_disk(monkeypatch, part)
    message, hint = refused("onnx", "--int8", *net)
    assert message.startswith(f"cannot write `{OUT}/squeezenet_custom.int8.onnx")
    assert message.endswith(": No space left on device")
    assert hint == "choose another folder with --out"


def test_a_disk_that_is_full_when_the_report_comes(refused, net, monkeypatch):
    full_disk(monkeypatch, "report.json")
    leaves = ("squeezenet_custom.fp32.onnx", "squeezenet_custom.fp32.onnx.json")
    assert "report.json" in refused("onnx", *net, "--scheme", "fp32", "--rounds", 1, leaves=leaves)[0]


def test_a_full_disk_while_calibrating(refused, net, monkeypatch):
    full_disk(monkeypatch, ".table")
    assert "No space left on device" in refused("calibrate", *net)[0]


def test_a_full_temporary_folder(refused, net, monkeypatch):
    def write(path, data, original=Path.write_bytes):
        if path.suffix == ".onnx":  # the draft; the file itself is first written as .tmp
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    message, hint = refused("onnx", *net)
    assert message.startswith("no space left on the disk of the temporary folder")
    assert hint == "set TMPDIR to a folder on another disk"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_a_full_stdout(tmp_path):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "squeeze_export", "weights"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no space left")
    assert "Traceback" not in done.stderr


def test_a_bug_is_not_dressed_up_as_the_users_mistake(monkeypatch, squeeze):
    for bug in (OSError(errno.EIO, "disk on fire"), ValueError("wrong"), SystemExit(7)):

        def broken(*_, bug=bug, **__):
            raise bug

        monkeypatch.setattr("squeeze_export.cli.weights.cache_folder", broken)
        with pytest.raises(type(bug)):
            squeeze("weights")


def test_the_console_script_exits_with_the_code(squeeze, capsys):
    with pytest.raises(SystemExit) as left:
        main(["tflite", "--rounds", "0"])
    assert left.value.code == 2


# --- ^C


@pytest.mark.parametrize("command", [("onnx", "--int8"), ("calibrate",)])
def test_interrupted_while_calibrating(command, squeeze, net, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("squeeze_export.pipeline.calibration.quantize", interrupt)
    result = squeeze(*command, *net)
    assert (result.code, result.out) == (130, "")
    assert result.refusal() == ("interrupted; nothing was left half-written", "")
    assert list(OUT.iterdir()) == []


def test_interrupted_while_writing(squeeze, net, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    assert squeeze("onnx", "--int8", *net).code == 130
    assert list(OUT.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_interrupt(number, net, tmp_path):
    program = (
        "import signal, sys, time\n"
        "import squeeze_export.pipeline.calibration as calibration\n"
        "from squeeze_export.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it\n"
        "def slow(*_, **__):\n    print('calibrating', flush=True)\n    time.sleep(60)\n"
        "calibration.quantize = slow\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", program, "onnx", "--int8", *map(str, net)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "calibrating\n"
        time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "error: interrupted; nothing was left half-written"
    assert list((tmp_path / OUT).iterdir()) == []


# --- what this machine does not have


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("onnx", "ONNX Runtime has no device `abacus` here", "it has: cpu"),
        ("tflite", "`litert` has no device `abacus` here", "it has: cpu"),
        ("openvino", "`openvino` has no device `abacus` here", "it has: cpu"),
    ],
)
def test_a_device_that_is_not_there(target, message, hint, refused, net):
    told = refused(target, "--int8", *net, "--device", "abacus", code=3)
    assert told[0] == message
    assert told[1].startswith(hint)


@pytest.mark.parametrize("command", ["bench", "validate"])
def test_a_device_that_is_not_there_for_a_file(command, squeeze, exported, net, tiny):
    more = (*net[:2], "--eval", tiny / "eval") if command == "validate" else ()
    result = squeeze(command, exported, *more, "--device", "abacus")
    assert result.code == 3
    assert "no device `abacus`" in result.refusal()[0]


@pytest.mark.parametrize(
    ("target", "module", "extra"),
    [
        ("onnx", "onnx", "onnx"),
        ("onnx", "onnxruntime", "onnx"),
        ("tflite", "flatbuffers", "tflite"),
        ("tflite", "ai_edge_litert.interpreter", "tflite"),
    ],
)
def test_a_package_that_is_not_installed(target, module, extra, refused, net, monkeypatch):
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    message, hint = refused(target, "--int8", *net, code=3)
    assert "is not installed" in message
    assert module in message
    assert hint == f"pip install 'squeeze-export[{extra}]'"


# --- options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--int8", "--fp16"), "one scheme at a time, not `fp16` and `int8`"),
        (("--int8", "--scheme", "fp32"), "one scheme at a time, not `fp32` and `int8`"),
        (
            ("--int8", "--recipe", "finest"),
            "'finest' is not one of 'fast', 'best', 'qat', 'vendor', 'vendor-percentile'.",
        ),
        (("--scheme", "int4"), "'int4' is not one of 'fp32', 'fp16', 'int8'"),
        (("--runtime", "litert"), "the runtime `litert` does not open onnx files"),
        (("--runtime", "onnxrt"), "the runtime `onnxrt` does not open onnx files"),
        (("--threads", 0), "--threads `0` is below 1"),
        (("--rounds", 0), "--rounds `0` is below 1"),
        (("--batch", 0), "`0` is outside 1 to 1024"),
        (("--batch", "many"), "`many` is neither a number nor `dynamic`"),
        (("--cpus", "9999"), "cpu `9999` is not among the CPUs of this process"),
        (("--cpus", "first"), "`first` is not a list of CPU numbers"),
    ],
)
def test_options_out_of_range(arguments, message, refused, net):
    assert message in refused("onnx", *net, *arguments)[0]


def test_one_runtime_for_all_targets(refused, net):
    assert refused("all", *net, "--runtime", "litert") == (
        "the runtime `litert` does not open onnx files",
        "one of: onnxruntime, torch",
    )


def test_files_that_the_audit_does_not_know(squeeze, net):
    assert squeeze("audit", "squeezenet.pb").refusal() == (
        "`squeezenet.pb` is no file of a target",
        "endings that are: .onnx, .tflite, .openvino, .mlpackage, .aimodel, .xml, .mlmodel",
    )
    assert squeeze("audit", "nothere.onnx").refusal()[0] == "`nothere.onnx` is not a file"
    assert squeeze("audit", "nothere.mlmodel").refusal()[0] == "`nothere.mlmodel` is not a file"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 99}', "[" * 100_000], ids=range(5))
def test_a_damaged_report(text, squeeze):
    Path("report.json").write_text(text)
    result = squeeze("report", "report.json")
    assert (result.code, result.out) == (2, "")
    assert result.refusal()[0]


# --- names of strangers


def clean(result):
    """Whether nothing but text was sent."""
    return all(c.isprintable() or c == "\n" for c in result.out + result.err)


def test_control_characters_in_a_tensors_name(squeeze, tmp_path):
    save_file({"a\x1b[2J\nb": np.zeros(1, np.float32)}, tmp_path / "x.safetensors")
    result = squeeze("inspect", "--weights", "x.safetensors")
    assert clean(result)
    assert "its tensors: `a\\x1b[2J\\nb` 1" in result.refusal()[0]


def test_control_characters_in_a_file_name(squeeze, net, tiny):
    folder = copy_images(tiny / "calib", Path("imgs"))
    (folder / "00\x1b]0;title\x07\udcff.png").write_bytes(b"torn")
    for more in ((), ("--skip-broken",)):
        result = squeeze("onnx", "--int8", *net[:2], "--calib", folder, "--rounds", 1, *more)
        assert clean(result)
        assert "\\x1b]0;title" in result.err


def test_control_characters_in_a_strangers_model(squeeze, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    value = [helper.make_tensor_value_info(name, 1, [1, 2]) for name in ("input", "out\x1b[2Jput")]
    node = helper.make_node("Sigmoid", ["input"], ["out\x1b[2Jput"], name="evil\x1b]0;\x07")
    onnx.save(helper.make_model(helper.make_graph([node], "g", value[:1], value[1:])), tmp_path / "x.onnx")
    result = squeeze("audit", "x.onnx")
    assert result.code == 4
    assert clean(result)
    as_json = squeeze("audit", "x.onnx", "--json")
    assert clean(as_json)
    assert json.loads(as_json.out)["x.onnx"]["float_operators"]


@pytest.mark.parametrize("form", ["table", "markdown", "html"])
def test_control_characters_in_a_strangers_report(form, squeeze, net):
    squeeze("onnx", *net, "--rounds", 1)
    text = (OUT / "report.json").read_text().replace('"device": "cpu"', '"device": "c\\u001b[2J\\u009b1m"')
    Path("report.json").write_text(text.replace('"name": "squeezenet_custom"', '"name": "\\u001b]0;x"'))
    result = squeeze("report", "report.json", "--format", form)
    assert result.code == 0
    assert clean(result)
