"""Help: complete, instant, and what a mistyped command gets."""

import re
import subprocess
import sys

import click
import pytest

from squeeze_export import __version__
from squeeze_export.cli import COMMANDS, cli, commands, known_options
from squeeze_export.cli.options import GROUPS, Choice
from squeeze_export.graph.quantized import SCHEMES
from squeeze_export.registry import TARGETS
from squeeze_export.targets import target_named

FRAMEWORKS = ("torch", "onnx", "onnxruntime", "ai_edge_litert", "tensorflow", "openvino", "coremltools", "flatbuffers")


def command(name):
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example_of_itself(name, squeeze):
    result = squeeze(name, "--help")
    assert result.code == 0
    assert result.err == ""
    assert f"\n  squeeze-export {name}" in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    options = [param for param in command(name).params if isinstance(param, click.Option)]
    assert options
    assert [option.name for option in options if not (option.help or "").endswith((".", "else fp32]"))] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_can_be_set_in_the_environment(name):
    for option in command(name).params:
        if isinstance(option, click.Option):
            long = next(text for text in option.opts if text.startswith("--"))
            assert option.envvar == "SQUEEZE_EXPORT_" + long[2:].replace("-", "_").upper()


def test_an_option_means_the_same_in_every_command():
    kinds = {}
    for name in COMMANDS:
        for option in command(name).params:
            if isinstance(option, click.Option):
                kinds.setdefault(option.opts[0], set()).add((option.type.name, option.is_flag, option.metavar))
    assert {text for text, found in kinds.items() if len(found) > 1} == set()


def test_known_options_are_spelt_as_on_the_command_line():
    options = known_options()
    assert list(options) == list(commands())
    assert options["tflite"]["eval"] == "evaluation"
    assert options["tflite"]["no-bench"] == "no_bench"
    assert "eval" not in options["bench"]


def test_the_list_of_commands(squeeze):
    result = squeeze("-h")
    assert result.code == 0
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in result.out
        assert text in result.out


def test_without_a_command_the_help_goes_to_stderr(squeeze):
    result = squeeze()
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: squeeze-export")


def test_version(squeeze):
    result = squeeze("--version")
    assert (result.code, result.err) == (0, "")
    assert __version__ in result.out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["prune"], "No such command 'prune'", "squeeze-export --help"),
        (["tflit"], "No such command 'tflit'", "did you mean `tflite`?"),
        (["tflite", "--zzz"], "No such option '--zzz'", "squeeze-export tflite --help"),
        (["tflite", "--calbi", "imgs"], "No such option '--calbi'", "did you mean `--calib`?"),
        (["tflite", "--recipe", "bets"], "'bets' is not one of 'fast', 'best'", "did you mean `best`?"),
        (["tflite", "--recipe", "x"], "'x' is not one of 'fast', 'best'", "squeeze-export tflite --help"),
        (
            ["tflite", "--runtime", "litret"],
            "the runtime `litret` does not open tflite files",
            "did you mean `litert`? one of: litert, litert-builtin, tflite-runtime, tensorflow-lite, tflite-micro",
        ),
        (["weights", "squeezenet11"], "is not one of 'squeezenet1_0'", "did you mean `squeezenet1_1`?"),
        (["onnx", "--int8", "--keep-float", "fire2/sqeeze1x1"], "no layer is called", "did you mean `fire2/squeeze1x1`?"),
        (["toolchain", "instal"], "'instal' is not one of 'install'", "did you mean `install`?"),
        (["tflite", "stray.pth"], "unexpected extra argument", "squeeze-export tflite --help"),
        (["bench"], "Missing argument 'FILE...'", "squeeze-export bench --help"),
        (["tflite", "--calib"], "'--calib' requires an argument", "squeeze-export tflite --help"),
        (["weights", "alexnet"], "'alexnet' is not one of 'squeezenet1_0', 'squeezenet1_1'", "squeeze-export weights --help"),
    ],
)
def test_mistyped(arguments, message, hint, squeeze):
    result = squeeze(*arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.refusal()[0]
    assert result.refusal()[1] == hint


def test_every_choice_answers_with_the_nearest():
    kinds = {type(param.type) for name in COMMANDS for param in command(name).params if isinstance(param.type, click.Choice)}
    assert kinds == {Choice}


def test_help_imports_no_framework():
    program = (
        "import sys\nfrom squeeze_export.cli import COMMANDS, run\n"
        "codes = [run([name, '--help']) for name in COMMANDS] + [run(['--help']), run(['--version'])]\n"
        f"print(set(codes), sorted(set(sys.modules) & set({FRAMEWORKS})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "{0} []\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell, squeeze, monkeypatch, capsys):
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *_: None)  # no bash needed to write it
    monkeypatch.setenv("_SQUEEZE_EXPORT_COMPLETE", f"{shell}_source")
    with pytest.raises(SystemExit) as left:
        squeeze()
    assert not left.value.code
    assert "_squeeze_export_completion" in capsys.readouterr().out


def test_completion_of_an_option(squeeze, monkeypatch, capsys):
    monkeypatch.setenv("_SQUEEZE_EXPORT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "squeeze-export tflite --no-")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        squeeze()
    assert capsys.readouterr().out.split() == ["plain,--no-final-relu", "plain,--no-validate", "plain,--no-bench"]


def test_python_dash_m_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "squeeze_export", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"squeeze-export, version {__version__}\n"


def test_an_export_shows_the_five_options_that_most_need_first(squeeze):
    for name in ("tflite", "all"):
        shown = squeeze(name, "--help").out
        first = shown.split("Most used:\n")[1].split("\n\n")[0]
        assert set(re.findall(r"^  (--[\w-]+)", first, re.MULTILINE)) == {"--weights", "--labels", "--calib", "--eval", "--int8"}
        headings = re.findall(r"^(\w[\w ]+):$", shown, re.MULTILINE)
        assert headings == list(GROUPS[1:])


@pytest.mark.parametrize("name", TARGETS)
def test_an_exports_help_shows_what_its_target_takes(name, squeeze):
    target, shown = target_named(name), squeeze(name, "--help").out
    schemes, inputs = (re.search(rf"^  {option} \[(.*?)\]", shown, re.MULTILINE)[1] for option in ("--scheme", "--input"))
    assert set(schemes.split("|")) == set(target.SCHEMES)
    assert set(inputs.split("|")) == set(target.INPUTS)
    assert ("--ios" in shown) == (name == "coreml")


def test_a_scheme_that_the_help_does_not_show_is_refused_with_the_reason(squeeze):
    result = squeeze("tflite", "--scheme", "palette8")
    assert result.code == 2
    assert result.refusal()[0] == "tflite does not carry the scheme `palette8`"


def test_completion_offers_what_the_help_shows(squeeze, monkeypatch, capsys):
    monkeypatch.setenv("_SQUEEZE_EXPORT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "squeeze-export tflite --scheme ")
    monkeypatch.setenv("COMP_CWORD", "3")
    with pytest.raises(SystemExit):
        squeeze()
    assert capsys.readouterr().out.split() == [f"plain,{name}" for name in SCHEMES if name in target_named("tflite").SCHEMES]
