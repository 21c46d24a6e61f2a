"""The console command: what each subcommand says, also when something is missing."""

import re
import subprocess
import sys

import pytest
import torch
from conftest import run_command


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
    )
    for name in names:
        assert re.search(rf"^  {name} +[A-Z]", result.stdout, re.MULTILINE), name


def test_help_imports_no_command():
    code = "import sys; from hear_dasheng.cli import main; main(['--help'], standalone_mode=False)"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_init_info_export(tmp_path):
    assert run_command("init", "tiny", "new", cwd=tmp_path).returncode == 0
    info = run_command("info", "new", cwd=tmp_path)
    assert "size tiny: width 192, depth 6, 3 heads" in info.stdout
    assert run_command("export", "new", "new.pt", "--format", "published", cwd=tmp_path).returncode == 0
    assert set(torch.load(tmp_path / "new.pt", weights_only=True)) == {"model", "config"}
    again = run_command("export", "new", "new.pt", cwd=tmp_path)
    assert again.returncode == 1
    assert again.stderr.strip() == "Error: new.pt exists already; delete it or choose another name"


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
