"""The console command: what each subcommand says, also when something is missing."""

import re
import resource
import subprocess
import sys
from functools import partial

import pytest
import torch
from click.testing import CliRunner
from conftest import run_command

from hear_dasheng.classifier import new_classifier
from hear_dasheng.classifier_checkpoint import export_classifier
from hear_dasheng.commands import info
from hear_dasheng.export import export, new_encoder


def test_help_lists_every_command(tmp_path):
    result = run_command("--help", cwd=tmp_path)
    names = (
        "init",
        "info",
        "export",
        "tag",
        "pretrain",
        "validate",
        "heareval",
        "score",
        "knn",
        "tasks",
        "report",
        "demo",
        "doctor",
    )
    for name in names:
        assert re.search(rf"^  {name} +[A-Z]", result.stdout, re.MULTILINE), name


def test_help_imports_no_command():
    code = "import sys; from hear_dasheng.cli import main; main(['--help'], standalone_mode=False)"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("command", ["init", "export"])
@pytest.mark.parametrize("name", ["new", "new.pt"])
def test_a_full_disk_is_reported_in_one_line_and_nothing_stays(tmp_path, tiny_folder, command, name):
    arguments = ("init", "tiny", name) if command == "init" else ("export", str(tiny_folder), name)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    result = run_command(*arguments, cwd=tmp_path, preexec_fn=limit)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {name}: File too large; ")
    assert not list(tmp_path.iterdir())


def test_seeds_that_torch_does_not_take_are_refused(tmp_path):
    result = run_command("init", "tiny", "new", "--seed", str(2**64), cwd=tmp_path)
    assert result.returncode == 2
    assert "Invalid value for '--seed'" in result.stderr
    assert "Traceback" not in result.stderr


def test_init_info_export(tmp_path):
    assert run_command("init", "tiny", "new", cwd=tmp_path).returncode == 0
    info = run_command("info", "new", cwd=tmp_path)
    assert "size tiny: width 192, depth 6, 3 heads" in info.stdout
    assert run_command("export", "new", "new.pt", "--format", "published", cwd=tmp_path).returncode == 0
    assert set(torch.load(tmp_path / "new.pt", weights_only=True)) == {"model", "config"}
    again = run_command("export", "new", "new.pt", cwd=tmp_path)
    assert again.returncode == 1
    assert again.stderr.strip() == "Error: new.pt exists already; delete it or choose another name"


@pytest.mark.parametrize(
    ("is_multi_label", "said"), [(True, "any number of them at once"), (False, "one of them at a time")]
)
def test_info_tells_of_a_classifiers_head(tmp_path, is_multi_label, said):
    names = tuple(f"class {letter}" for letter in "abcdefghij")
    export_classifier(new_classifier(new_encoder("tiny"), names, is_multi_label), tmp_path / "classifier")
    result = CliRunner().invoke(info, [str(tmp_path / "classifier")])
    assert result.exit_code == 0, result.output
    assert f"a classifier's head: 10 classes, {said} (class a, class b, " in result.output
    assert "class h, ...); hear-dasheng tag uses it" in result.output
    export(new_encoder("tiny"), tmp_path / "encoder")
    assert "head:" not in CliRunner().invoke(info, [str(tmp_path / "encoder")]).output


@pytest.mark.parametrize("command", [["info", "gone.pt"], ["export", "gone.pt", "out"]])
def test_errors_are_one_line_without_a_traceback(tmp_path, command):
    result = run_command(*command, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: no checkpoint at 'gone.pt'")
    assert "Traceback" not in result.stderr


def test_commands_of_a_missing_extra_say_which_it_is(tmp_path):
    """As in an environment where only the plugin is installed."""
    script = (
        "import sys\n"
        "sys.modules['soundfile'] = None\n"
        "from hear_dasheng.cli import main\n"
        "main(['tasks', 'import', 'x'])\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert "needs the package soundfile; in the checkout: pip install '.[evaluation]'" in result.stderr


def test_missing_tools_are_named_with_the_command(tmp_path):
    script = (
        "import importlib.metadata as m\n"
        "def version(name): raise m.PackageNotFoundError\n"
        "m.version = version\n"
        "from eval_recipes.official import validate\n"
        "validate(['hear_dasheng'])\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert "hearvalidator 2021.0.6 is needed and is not installed" in result.stderr
    assert "--no-deps --ignore-requires-python hearvalidator==2021.0.6 heareval==2021.1.3" in result.stderr


def test_an_unknown_command_is_an_error(tmp_path):
    result = run_command("frobnicate", cwd=tmp_path)
    assert result.returncode == 2
    assert "No such command 'frobnicate'" in result.stderr
