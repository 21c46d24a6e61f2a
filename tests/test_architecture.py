"""What the layout promises: one-way imports, a light import, a README that is true."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_command

from hear_dasheng.classifier import new_classifier
from hear_dasheng.classifier_checkpoint import export_classifier
from hear_dasheng.export import new_encoder
from pretrain.training.config import PretrainConfig
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.read_config import fields_of

PACKAGES = ("hear_dasheng", "pretrain", "eval_recipes", "safe_download", "process_memory", "whole_audio")
MAY_IMPORT = {
    "hear_dasheng": {"safe_download", "whole_audio"},
    "pretrain": {"hear_dasheng", "process_memory", "whole_audio"},
    "eval_recipes": {
        "hear_dasheng.files",
        "hear_dasheng.compute",
        "safe_download",
        "process_memory",
        "whole_audio",
    },
    "safe_download": set(),
    "process_memory": set(),
    "whole_audio": set(),
}
SOURCES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
GROUND_FLOOR = [path for path in SOURCES if path.parent.name in ("files", "compute")]
KEYS = {("pretrain",): fields_of(PretrainConfig), ("finetune",): fields_of(FinetuneConfig)}
README = (REPOSITORY / "README.md").read_text()


def imported_modules(path: Path) -> set[str]:
    """The dotted names of all modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_packages(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imported_modules(path)}


def is_within(module: str, prefixes: set[str]) -> bool:
    return any(f"{module}.".startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_run_one_way(path):
    package = path.relative_to(REPOSITORY).parts[0]
    others = set(PACKAGES) - {package}
    foreign = {module for module in imported_modules(path) if is_within(module, others)}
    assert not [module for module in foreign if not is_within(module, MAY_IMPORT[package])]


@pytest.mark.parametrize("path", GROUND_FLOOR, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_ground_floor_imports_nothing_of_the_rest(path):
    folder = ".".join(path.relative_to(REPOSITORY).parts[:2])
    ours = {module for module in imported_modules(path) if is_within(module, set(PACKAGES))}
    assert not [module for module in ours if not is_within(module, {folder})]


def test_torchaudio_and_the_oracle_are_needed_by_tests_alone():
    for path in SOURCES:
        assert not imported_packages(path) & {"torchaudio", "dasheng", "einops"}, path


def test_no_file_is_a_drawer_for_everything():
    assert not [
        path for path in SOURCES if path.stem in {"utils", "util", "common", "misc", "base", "helpers"}
    ]


def test_importing_the_package_imports_no_torch_and_no_tool():
    show = "import sys, hear_dasheng; print(sorted({'torch', 'numpy', 'tqdm', 'librosa'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def commands_in_the_readme() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("hear-dasheng")]


def test_the_readmes_commands_exist_with_the_options_shown(tmp_path):
    commands = commands_in_the_readme()
    assert len(commands) >= 6
    helps: dict[tuple[str, ...], str] = {}
    for command in commands:
        words = command.split()[1:]
        depth = 2 if words[0] in ("tasks", "heareval") else 1
        name = tuple(words[:depth])
        if name not in helps:
            result = run_command(*name, "--help", cwd=tmp_path)
            assert result.returncode == 0, result.stderr
            helps[name] = result.stdout
        for option in [word.split("=")[0] for word in words[depth:] if word.startswith("--")]:
            is_key = name in KEYS and option[2:].split(".")[0] in KEYS[name]
            assert is_key or option in helps[name], f"{command}: {' '.join(name)} has no {option}"


def test_the_readmes_python_examples_run(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_checkpoint").symlink_to(tiny_folder)
    export_classifier(new_classifier(new_encoder("tiny"), ("dog", "cat")), tmp_path / "my_classifier")
    import numpy as np
    import soundfile

    for name in ("short.wav", "long.flac"):
        soundfile.write(tmp_path / name, 0.1 * np.random.default_rng(0).standard_normal(50_000), 16_000)
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})


def test_make_targets_of_the_readme_exist():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"`?make ([\w-]+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_versions_of_the_official_tools_are_pinned_in_one_place():
    from eval_recipes import official_pins

    given = (official_pins.TOOLS, official_pins.NEEDED_BY_TOOLS, [official_pins.XARES])
    tested = (official_pins.TESTED_MODULES, official_pins.NEEDED_BY_TESTED_MODULES)
    pins = [pin for group in (*given, *tested) for pin in group if "==" in pin]
    elsewhere = [
        path
        for path in [*SOURCES, REPOSITORY / "setup.py", REPOSITORY / "Makefile"]
        if path.name != "official_pins.py" and any(pin in path.read_text() for pin in pins)
    ]
    assert not elsewhere
