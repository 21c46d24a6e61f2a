"""A batch of 10 s clips, base: tokens per second and peak memory against the package `dasheng`."""

from __future__ import annotations

import argparse

import measure
import torch

from hear_dasheng import get_timestamp_embeddings, load_model

GFLOP_PER_CLIP = 45.1
"""250 tokens x (12 blocks x 12 x 768^2 weights + patches) x 2, and attention's two products."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--memory-of", nargs=2, metavar=("WHO", "CHECKPOINT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    measure.use_cores(args.cores)
    audio = 0.1 * torch.randn(args.clips, 160_000)

    def package(model):
        with torch.inference_mode():
            return model(audio)

    if args.memory_of:
        who, path = args.memory_of
        if who == "package":
            package(measure.load_package(path))
        else:
            get_timestamp_embeddings(audio, load_model(path, precision=who))
        print(measure.peak_memory_mib())
        return

    print(measure.machine())
    for dtype in (torch.float32, torch.bfloat16):
        print(f"matrix peak {dtype}: {measure.matrix_peak_gflops(dtype):.0f} GFLOP/s")
    with measure.random_base_checkpoint() as path:
        theirs, exact, rough = (
            measure.load_package(path),
            load_model(path),
            load_model(path, precision="bf16"),
        )
        reference = package(theirs)
        for name, model in {"fp32": exact, "bf16": rough}.items():
            error = (get_timestamp_embeddings(audio, model)[0] - reference).norm() / reference.norm()
            print(f"{name}: relative difference to the package {error:.1e}")
        seconds = measure.alternate(
            {
                "package": lambda: package(theirs),
                "ours, fp32": lambda: get_timestamp_embeddings(audio, exact),
                "ours, bf16": lambda: get_timestamp_embeddings(audio, rough),
            },
            args.rounds,
        )
        measure.report(seconds, "package", GFLOP_PER_CLIP * args.clips)
        for who in ("package", "fp32", "bf16"):
            options = ["--clips", str(args.clips), "--cores", str(args.cores), "--memory-of", who, str(path)]
            print(f"peak memory, {who}: {float(measure.in_fresh_process(__file__, *options)):.0f} MiB")


if __name__ == "__main__":
    main()
