"""A training step, batch 8 x 10 s: forward, backward and AdamW, against the published classes.

Each contestant has a process of its own, as a training run has: in a common process one's freed
memory would decide how often the other must ask the kernel for more. They take turns step by step.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import measure
import torch

from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.sizes import SIZES
from pretrain.masked_autoencoder import new_masked_autoencoder
from pretrain.masking import n_kept, random_mask
from process_memory import keep_freed_memory

PUBLISHED = {"base": "dasheng_base", "1.2B": "dasheng_12B"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SECONDS, TOKENS, MASK_RATIO, PATCH_VALUES = 10, 250, 0.75, 256
OPTIMIZER = {"lr": 1e-4, "weight_decay": 0.01}
Step = Callable[[], float]


def published_step(audio: torch.Tensor, size: str, dtype: torch.dtype) -> Step:
    """The published model and the optimizer that its trainer falls back to."""
    from dasheng.train import models

    model = getattr(models, PUBLISHED[size])(group_masking=True, target_length=1008).train().to(audio.device)
    optimizer = torch.optim.AdamW(model.parameters(), **OPTIMIZER)
    return new_step(lambda: model(audio, mask_ratio=MASK_RATIO, return_loss=True), optimizer, audio, dtype)


def our_step(audio: torch.Tensor, size: str, dtype: torch.dtype, *, is_compiled: bool = False) -> Step:
    """Ours, with torch's fused optimizer as `pretrain.training.optimizers` chooses it."""
    bare = new_masked_autoencoder(Encoder(EncoderConfig.of_size(size)), size).train().to(audio.device)
    optimizer = torch.optim.AdamW(bare.parameters(), **OPTIMIZER, fused=True)
    model = torch.compile(bare) if is_compiled else bare

    def loss() -> torch.Tensor:
        mask = random_mask(len(audio), TOKENS, MASK_RATIO, 2).to(audio.device)
        return model(audio, mask).mean()

    return new_step(loss, optimizer, audio, dtype)


def new_step(
    loss_of: Callable[[], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    audio: torch.Tensor,
    dtype: torch.dtype,
) -> Step:
    """One update; reading the loss waits for a GPU."""

    def step() -> float:
        with torch.autocast(audio.device.type, dtype, enabled=dtype != torch.float32):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def step_gflop(size: str, clips: int) -> float:
    """Of the matrix products: a multiplication and an addition, once forward and twice backward."""
    shape, kept = SIZES[size], n_kept(TOKENS, MASK_RATIO)

    def blocks(tokens: int, dim: int, depth: int) -> int:
        return depth * tokens * (12 * dim**2 + 2 * tokens * dim)

    encoder = blocks(kept, shape.dim, shape.depth) + kept * PATCH_VALUES * shape.dim
    decoder = blocks(TOKENS, shape.decoder_dim, shape.decoder_depth) + shape.decoder_dim * (
        kept * shape.dim + (TOKENS - kept) * PATCH_VALUES
    )
    return 2 * 3 * clips * (encoder + decoder) / 1e9


def matrix_peak_gflops(dtype: torch.dtype, device: str) -> float:
    """The best rate of one large matrix product."""
    if device == "cpu":
        return measure.matrix_peak_gflops(dtype)
    n, seconds = 8192, []
    a, b = torch.randn(2, n, n, dtype=dtype, device=device)
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(a, b)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds) / 1e9


class Contestant:
    """A model in a process of its own, which steps when called."""

    def __init__(self, name: str, options: list[str]) -> None:
        command = [sys.executable, __file__, *options, "--contestant", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> None:
        """One step."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        if not self.process.stdout.readline():
            raise RuntimeError("a contestant ended; its message is above")

    def peak_memory_mib(self) -> float:
        """End the process; the most memory it had."""
        peak, _ = self.process.communicate()
        return float(peak)


def serve(step: Step, device: str) -> None:
    """Step for each line of the standard input; then tell the peak memory."""
    for _ in sys.stdin:
        print(step(), flush=True)
    print(torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else measure.peak_memory_mib())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=PUBLISHED, default="base")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--compiled", action="store_true", help="also ours under torch.compile")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    measure.use_cores(args.cores)
    if args.contestant:
        who, precision = args.contestant.split(", ")
        torch.manual_seed(0)
        audio = 0.1 * torch.randn(args.clips, SECONDS * 16_000, device=args.device)
        options = {"is_compiled": True} if who == "compiled" else {}
        if who != "published":
            keep_freed_memory()  # as the command does
        new = published_step if who == "published" else our_step
        serve(new(audio, args.size, DTYPES[precision], **options), args.device)
        return

    gpu = f"{torch.cuda.get_device_name()}, " if args.device == "cuda" else ""
    print(f"{args.size}, {args.clips} clips of {SECONDS} s; {gpu}{measure.machine()}")
    peaks = {name: matrix_peak_gflops(DTYPES[name], args.device) for name in args.precisions}
    gflop = step_gflop(args.size, args.clips)
    options = ["--size", args.size, "--device", args.device, "--clips", str(args.clips)]
    options += ["--cores", str(args.cores)]
    sides = ["published", "ours", *(["compiled"] if args.compiled else [])]
    names = [f"{who}, {precision}" for precision in args.precisions for who in sides]
    contestants = {name: Contestant(name, options) for name in names}
    seconds = measure.alternate(contestants, args.rounds)
    for reference in names[:: len(sides)]:
        measure.report(seconds, reference, gflop)
    for name, contestant in contestants.items():
        peak = peaks[name.split(", ")[1]]
        share = gflop / statistics.median(seconds[name]) / peak
        print(
            f"{name}: {gflop:.0f} GFLOP a step at {100 * share:.0f} % of the measured matrix peak "
            f"({peak:.0f} GFLOP/s); peak memory {contestant.peak_memory_mib():.0f} MiB"
        )


if __name__ == "__main__":
    main()
