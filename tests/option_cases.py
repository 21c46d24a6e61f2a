"""Published encoder options that the tests go through, and the published class with each of them."""

from pathlib import Path

import pytest
import torch
from conftest import oracle_of

SIZE = {"embed_dim": 48, "depth": 2, "num_heads": 3}
SQUARE = {"patch_size": [16, 16], "patch_stride": [16, 16]}
OPTIONS = {
    "released": {},
    "short windows": {"target_length": 205},
    "narrow MLP": {"mlp_ratio": 2.5},
    "MLP of a broken width": {"mlp_ratio": 3.3},
    "no qkv bias": {"qkv_bias": False},
    "layer scale": {"init_values": 0.5},
    "no layer scale, said as 0": {"init_values": 0.0},
    "dropout": {"drop_rate": 0.3},
    "attention dropout": {"attn_drop_rate": 0.2},
    "other transform": {"n_fft": 1024, "win_size": 400, "hop_size": 100},
    "odd transform": {"n_fft": 513, "win_size": 400},
    "other bands": {"f_min": 50, "f_max": 7_000},
    "more bands": {"n_mels": 80, "patch_size": (80, 4), "patch_stride": (80, 4)},
    "not centred": {"center": False},
    "high floor": {"top_db": 40},
    "no floor": {"top_db": None},
    "square patches": SQUARE,
    "square patches, short windows": SQUARE | {"target_length": 200},
    "bands that fill no patch": SQUARE | {"n_mels": 70},
    "one frame a patch": {
        "patch_size": [64, 1],
        "patch_stride": [64, 1],
        "target_length": 252,
        "n_fft": 1024,
    },
    "many small patches": {"patch_size": [32, 2], "patch_stride": [32, 2], "target_length": 300},
    "keys without effect": {
        "pooling": "mean",
        "eval_avg": "mean",
        "time_patch_out": 0.5,
        "freq_patch_out": 0.1,
    }
    | {"block_type": "Block", "attention_type": "Attention", "norm_layer": None, "act_layer": None},
    "all at once": {
        **{"patch_size": [20, 8], "patch_stride": [20, 8], "target_length": 500, "mlp_ratio": 3},
        **{"qkv_bias": False, "init_values": 0.3, "drop_rate": 0.1, "attn_drop_rate": 0.1, "n_fft": 1024},
        **{"win_size": 800, "hop_size": 200, "n_mels": 80, "f_min": 20, "f_max": 7_600, "center": False},
        "top_db": 90,
    },
}

every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def published_model(options: dict, folder: Path):
    """The published class with these options, and its `.pt` file."""
    oracle = oracle_of(48, 2, 3, **options)
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if name.endswith("gamma"):
                parameter.mul_(torch.linspace(0.5, 2, len(parameter)))
    path = folder / "published.pt"
    torch.save({"model": oracle.state_dict(), "config": SIZE | options}, path)
    return oracle, path
