"""hear-validator runs unmodified; what it overlooks is found."""

import subprocess
import sys

import pytest
from conftest import run_command
from hear_modules import write_module

from eval_recipes.official_pins import TOOLS


def test_validator_accepts_our_checkpoint_and_shows_the_one_known_warning(tmp_path, tiny_folder):
    result = run_command("validate", "hear_dasheng", "--model", str(tiny_folder), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Looks good!" in result.stdout
    assert "finite and repeatable" in result.stdout
    assert result.stderr.count("UserWarning: Your timestamps") == 1
    assert "1935.0ms, but the audio is 1980.0 ms" in result.stderr


def test_padding_the_tail_leaves_no_timestamp_warning(tmp_path, tiny_folder):
    arguments = ["--model-options", '{"tail": "pad"}', "--model", str(tiny_folder)]
    result = run_command("validate", "hear_dasheng", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Looks good!" in result.stdout
    assert "Max timestamp 1975.0ms" in result.stdout
    assert "Your timestamps" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["hear_dasheng", "--model", "gone"],
            "Error: hear_dasheng.load_model('gone'): FileNotFoundError: no checkpoint",
        ),
        (["hear_dashen"], "Error: hear_dashen: ModuleNotFoundError: No module named 'hear_dashen'"),
        (["json"], "hear-validator refuses the module: Your API must include a function: 'load_model'"),
    ],
)
def test_mistakes_with_validate_are_one_line(tmp_path, arguments, message):
    result = run_command("validate", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("scene", "training", "message"),
    [
        (
            "torch.full((len(audio), 4), torch.nan)",
            False,
            "values of the scene embeddings of noise are not finite",
        ),
        ("torch.rand(len(audio), 4)", True, "two calls on the same noise give different"),
    ],
)
def test_validate_finds_what_the_validator_calls_good(tmp_path, scene, training, message):
    write_module(tmp_path, "mine", scene, training=training)
    result = run_command("validate", "mine", cwd=tmp_path)
    assert "Looks good!" in result.stdout
    assert result.returncode == 1
    assert message in result.stderr
    assert ("training mode" in result.stderr) == training


def test_tensorflow_is_used_if_present_and_stood_in_for_if_not(tmp_path):
    show = "import eval_recipes.official_process as p; p.stand_in_for_tensorflow(); import tensorflow as tf; "
    show += "print(tf.__version__, tf.__spec__.name, isinstance(1, tf.Module), "
    show += "tf.test.is_gpu_available(cuda_only=False))"
    command = [sys.executable, "-c", show]
    absent = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert absent.stdout.split() == ["2.0.0", "tensorflow", "False", "True"]
    (tmp_path / "tensorflow.py").write_text(
        "__version__ = '9.9'\nclass Module: pass\nclass test:\n    def is_gpu_available(**_): return False\n"
    )
    present = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert present.stdout.split() == ["9.9", "tensorflow", "False", "False"]


def test_pins_are_what_is_installed():
    from importlib.metadata import version

    for requirement in TOOLS:
        name, pinned = requirement.split("==")
        assert version(name) == pinned
