"""The official validator accepts every peer, loaded from the layout in which it is published."""

import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from conftest import oracle_of
from peer_cases import save_audiomae, save_msm_mae, save_waveform_peer, save_whisper

PEERS = ("audiomae", "ced", "data2vec", "msm_mae", "wav2vec2", "wavlm", "whisper")

VALIDATE_ALL = """
import sys
from eval_recipes import official_process
for name, model in zip(sys.argv[1::2], sys.argv[2::2]):
    print("peer", name, flush=True)
    print("peer", name, file=sys.stderr, flush=True)
    sys.argv = ["official_process", "validate", "{}", f"eval_recipes.baselines.{name}", "--model", model]
    if official_process.main():
        sys.exit(f"{name} was refused")
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("official_peers")
    ced = oracle_of(192, 12, 3, patch_size=(16, 16), patch_stride=(16, 16), target_length=1012)
    torch.save(ced.state_dict(), root / "ced_tiny.pt")
    return {
        "audiomae": save_audiomae(root / "audiomae"),
        "ced": root / "ced_tiny.pt",
        "msm_mae": save_msm_mae(root),
        "whisper": save_whisper(root / "whisper"),
    } | {kind: save_waveform_peer(root / kind, kind) for kind in ("data2vec", "wav2vec2", "wavlm")}


@pytest.mark.slow
def test_the_validator_accepts_every_peer(checkpoints, tmp_path):
    """In one process: importing transformers takes longer than all the rest."""
    arguments = [str(word) for name in PEERS for word in (name, checkpoints[name])]
    result = subprocess.run(
        [sys.executable, "-c", VALIDATE_ALL, *arguments],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # models of this size only wait for a second thread
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    verdicts = dict(part.split("\n", 1) for part in result.stdout.split("peer ")[1:])
    assert list(verdicts) == list(PEERS)
    for name, verdict in verdicts.items():
        assert "Looks good!" in verdict, name
        assert "Also finite and repeatable" in verdict, name


@pytest.mark.parametrize("name", [name for name in PEERS if name != "ced"])
def test_without_its_packages_a_peer_says_how_to_get_them(name, checkpoints, monkeypatch):
    module = import_module(f"eval_recipes.baselines.{name}")
    for loaded in list(sys.modules):
        if loaded.split(".")[0] in ("transformers", "timm", "librosa"):
            monkeypatch.delitem(sys.modules, loaded)
    for package in ("transformers", "timm", "librosa"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=r"needs the package \w+; in the checkout: pip install '\.\[peers\]'"
    ):
        module.load_model(checkpoints[name])
