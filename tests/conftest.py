"""Shared fixtures: models small enough to be quick, and the published package as oracle."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from hear_dasheng.export import export, new_encoder
from hear_dasheng.sizes import SIZES

REPOSITORY = Path(__file__).parent.parent
SKIPS_IN_CI = ("needs a GPU",)
"""Beginnings of the reasons for which a test may be skipped where everything else is installed."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI in which a test was skipped that should have run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):  # a worker of pytest-xdist has no reporter
        return
    reasons = [
        str(report.longrepr[-1]).removeprefix("Skipped: ") for report in reporter.stats.get("skipped", [])
    ]
    unexpected = sorted({reason for reason in reasons if not reason.startswith(SKIPS_IN_CI)})
    reporter.write_line(f"\n{len(reasons)} tests skipped, {len(unexpected)} reasons that must not hold in CI")
    for reason in unexpected:
        reporter.write_line(f"    {reason}", red=True)
    if unexpected and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def oracle_of(dim: int, depth: int, heads: int, seed: int = 0, **options):
    """The published package's encoder with weights that exercise every parameter."""
    from dasheng.pretrained.pretrained import Dasheng

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Dasheng(embed_dim=dim, depth=depth, num_heads=heads, **options).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or name.endswith("bias") or name.startswith("init_bn"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
            model.init_bn[1].running_mean.normal_(-30, 10)
            model.init_bn[1].running_var.uniform_(50, 300)
    return model.requires_grad_(False)


def config_of(model) -> dict:
    """The config that the published `.pt` files hold."""
    return {
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": model.blocks[0].attn.num_heads,
        "patch_size": [64, 4],
        "patch_stride": [64, 4],
        "target_length": model.target_length,
    }


def scaled_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, in units of the largest reference value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def noise(n: int, seconds: float, seed: int = 0) -> torch.Tensor:
    """White noise with a slowly changing level, (n, samples)."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(n, round(16_000 * seconds), generator=generator)
    return samples * 0.1 * torch.rand(n, 1, generator=generator)


def run_command(*arguments: str, cwd: Path, **options) -> subprocess.CompletedProcess:
    """Run `hear-dasheng` as a user would."""
    command = [sys.executable, "-m", "hear_dasheng.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def one_thread():
    """Models of a few thousand weights only lose time by waiting for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def fitted_checkpoint(tmp_path_factory) -> Path:
    """A classifier that tells three sounds apart."""
    from tagging_cases import write_fitted

    return write_fitted(tmp_path_factory.mktemp("fitted"))


@pytest.fixture
def sound_folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with files of these sounds."""
    from tagging_cases import write_sounds

    write_sounds(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def task_server(monkeypatch):
    """A local stand-in for Zenodo, for which nobody waits."""
    from fetch_cases import served_tasks

    from safe_download import patience

    monkeypatch.setattr(patience, "wait_s", lambda seconds: None)
    with served_tasks() as server:
        yield server


@pytest.fixture
def fetch(task_server, tmp_path, monkeypatch):
    """`hear-dasheng tasks fetch` from it, in an empty working directory."""
    from fetch_cases import fetch_from

    monkeypatch.chdir(tmp_path)
    return partial(fetch_from, task_server)


@pytest.fixture(scope="session")
def tiny_oracle():
    """A tiny model of the published package."""
    size = SIZES["tiny"]
    return oracle_of(size.dim, size.depth, size.heads)


@pytest.fixture(scope="session")
def tiny_pt(tiny_oracle, tmp_path_factory) -> Path:
    """That model in the published `.pt` form."""
    path = tmp_path_factory.mktemp("published") / "tiny.pt"
    torch.save({"model": tiny_oracle.state_dict(), "config": config_of(tiny_oracle)}, path)
    return path


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """An untrained tiny checkpoint in our own layout."""
    return export(new_encoder("tiny"), tmp_path_factory.mktemp("ours") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_pt):
    """The tiny published model as a HEAR model."""
    from hear_dasheng import load_model

    return load_model(tiny_pt)


@pytest.fixture
def published_state(tiny_oracle):
    """A fresh copy of the published state dict."""
    return {name: value.clone() for name, value in tiny_oracle.state_dict().items()}
