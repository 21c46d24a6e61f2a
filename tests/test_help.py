"""`--help` imports click and what options need, but none of the packages that compute, read or draw."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "accelerate", "pandas", "transformers", "matplotlib", "scipy", "sklearn", "librosa"} | {
    "pydantic",
    "tensorboard",
}
COMMANDS = [
    ("init",),
    ("info",),
    ("export",),
    ("tag",),
    ("pretrain",),
    ("finetune",),
    ("validate",),
    ("embed",),
    ("heareval", "embeddings"),
    ("heareval", "predictions"),
    ("score",),
    ("knn",),
    ("tasks", "list"),
    ("tasks", "fetch"),
    ("tasks", "import"),
    ("report",),
    ("demo",),
]
SHOW_HELP = """
import json, runpy, sys
sys.argv = ["hear-dasheng", *{words}, "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit as end:
    print()
    print(json.dumps([end.code, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


def shown_help(words, module="hear_dasheng.cli") -> tuple[str, set[str]]:
    """The text of `--help` and the packages that it has imported."""
    script = SHOW_HELP.format(words=list(words), module=module)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    text, _, last = result.stdout.rstrip().rpartition("\n")
    code, packages = json.loads(last)
    assert code in (0, None), text
    return text, set(packages)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_imports_no_heavy_package(words):
    text, packages = shown_help(words)
    assert "Usage:" in text
    assert "Options:" in text
    assert not packages & HEAVY


def test_help_of_the_packer_imports_no_heavy_package():
    text, packages = shown_help((), "pretrain.wavlist_to_tar")
    assert "OUTDIR" in text
    assert not packages & HEAVY


def test_every_command_is_in_the_list():
    import click

    from hear_dasheng.cli import main

    assert {words[0] for words in COMMANDS} >= set(main.list_commands(click.Context(main))) - {"doctor"}


def test_a_missing_package_is_named_when_the_command_runs(tmp_path):
    script = (
        "import sys; sys.modules['accelerate'] = None\n"
        "from hear_dasheng.cli import main; main(['pretrain', 'dasheng_tiny'])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert "accelerate" in result.stderr
    assert "pip install '.[pretraining]'" in result.stderr
    assert "Traceback" not in result.stderr
