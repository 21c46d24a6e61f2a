"""Recordings of 5, 10 and 20 minutes, base: seconds, and memory above the loaded model."""

from __future__ import annotations

import argparse

import measure
import torch

from hear_dasheng import get_timestamp_embeddings, load_model

MINUTES = (5, 10, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--minutes", nargs=2, metavar=("MINUTES", "CHECKPOINT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    measure.use_cores(args.cores)
    if args.minutes:
        minutes, path = int(args.minutes[0]), args.minutes[1]
        model = load_model(path)
        get_timestamp_embeddings(0.1 * torch.randn(1, 16_000), model)
        loaded = measure.peak_memory_mib()
        audio = 0.1 * torch.randn(1, minutes * 60 * 16_000)
        seconds = measure.alternate({"ours": lambda: get_timestamp_embeddings(audio, model)}, 1)["ours"][0]
        print(
            f"{minutes:2d} min: {seconds:6.1f} s, "
            f"{measure.peak_memory_mib() - loaded:5.0f} MiB above the loaded model, audio included"
        )
        return
    print(measure.machine())
    with measure.random_base_checkpoint() as path:
        for minutes in MINUTES:
            options = ["--cores", str(args.cores), "--minutes", str(minutes), str(path)]
            print(measure.in_fresh_process(__file__, *options))


if __name__ == "__main__":
    main()
