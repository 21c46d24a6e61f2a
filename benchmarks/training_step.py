"""A training step, base, batch 8 x 10 s: forward, backward and AdamW, against the published classes."""

from __future__ import annotations

import argparse

import measure
import torch

from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from pretrain.masked_autoencoder import new_masked_autoencoder
from pretrain.masking import random_mask


def published_step(audio: torch.Tensor, dtype: torch.dtype, lr: float):
    """The published model and the optimizer that its trainer falls back to."""
    from dasheng.train import models

    model = models.dasheng_base(group_masking=True, target_length=1008).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)

    def step():
        with torch.autocast(audio.device.type, dtype, enabled=dtype != torch.float32):
            loss = model(audio, mask_ratio=0.75, return_loss=True)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def our_step(audio: torch.Tensor, dtype: torch.dtype, lr: float):
    """Ours, with the optimizer of `pretrain.training.optimizers`."""
    model = new_masked_autoencoder(Encoder(EncoderConfig.of_size("base")), "base").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)
    n_tokens = model.n_tokens(audio.shape[1])

    def step():
        with torch.autocast(audio.device.type, dtype, enabled=dtype != torch.float32):
            loss = model(audio, random_mask(len(audio), n_tokens, 0.75, 2)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    measure.use_cores(args.cores)
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(args.clips, 160_000)
    print(measure.machine())
    for dtype in (torch.float32, torch.bfloat16):
        print(f"matrix peak {dtype}: {measure.matrix_peak_gflops(dtype):.0f} GFLOP/s")
    contestants = {
        "published, fp32": published_step(audio, torch.float32, 1e-4),
        "ours, fp32": our_step(audio, torch.float32, 1e-4),
        "published, bf16": published_step(audio, torch.bfloat16, 1e-4),
        "ours, bf16": our_step(audio, torch.bfloat16, 1e-4),
    }
    measure.report(measure.alternate(contestants, args.rounds), "published, fp32")


if __name__ == "__main__":
    main()
