"""Check an installed wheel in an empty environment: the command, a checkpoint, and the HEAR functions.

Run by `make check-wheel` with the environment's own Python. pytest does not collect it, because the test
packages would hide a missing requirement.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def run(*arguments: str, cwd: Path) -> str:
    """Return what the installed `hear-dasheng` prints; fail if it does."""
    command = [str(Path(sys.executable).parent / "hear-dasheng"), *arguments]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr}"
    return result.stdout


def check_installation(checkout: Path) -> None:
    """Fail unless the packages come from the environment and bring their data files."""
    import eval_recipes
    import hear_dasheng
    import pretrain

    for package in (hear_dasheng, pretrain, eval_recipes):
        folder = Path(package.__file__).parent
        assert folder.is_relative_to(sys.prefix), (
            f"{package.__name__} comes from {folder}, not from the wheel"
        )
        for data in [*(checkout / package.__name__).rglob("*.*")]:
            if data.suffix in (".csv", ".yaml", ".html", ".js", ".css", ".txt"):
                installed = folder / data.relative_to(checkout / package.__name__)
                assert installed.is_file(), f"the wheel lacks {installed}"


def check_hear_functions(checkpoint: Path) -> None:
    """Fail unless an exported checkpoint loads and gives finite embeddings of the right shapes."""
    import torch

    from hear_dasheng import get_scene_embeddings, get_timestamp_embeddings, load_model

    model = load_model(str(checkpoint))
    audio = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    scenes = get_scene_embeddings(audio, model)
    embeddings, timestamps = get_timestamp_embeddings(audio, model)
    assert scenes.shape == (2, model.scene_embedding_size)
    assert embeddings.shape == (2, timestamps.shape[1], model.timestamp_embedding_size)
    assert all(torch.isfinite(tensor).all() for tensor in (scenes, embeddings, timestamps))


def main() -> None:
    """Run all checks in an empty folder."""
    check_installation(Path(__file__).resolve().parent.parent)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert "embed" in run("--help", cwd=folder)
        run("init", "tiny", "untrained", cwd=folder)
        for target in ("exported", "exported.pt"):
            run("export", "untrained", target, cwd=folder)
            check_hear_functions(folder / target)
        for command in ("pretrain", "embed"):  # need extras, which must be named
            assert f"hear-dasheng {command}" in run(command, "--help", cwd=folder)
    print("The wheel works in an empty environment.")


if __name__ == "__main__":
    main()
