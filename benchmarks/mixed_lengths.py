"""200 files of 0.3 to 30 s, base, fp32: our list of files against the package, one clip at a time."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import measure
import numpy as np
import soundfile
import torch

from hear_dasheng import load_model
from hear_dasheng.embed_files import scene_embeddings_of_files


def write_clips(folder: Path, count: int, spread: str) -> list[Path]:
    """Noise in 16 kHz wav files, their lengths drawn log-uniformly or uniformly from 0.3 to 30 s."""
    rng = np.random.default_rng(0)
    lengths_s = rng.uniform(0.3, 30, count) if spread == "uniform" else np.geomspace(0.3, 30, count)
    rng.shuffle(lengths_s)
    paths = []
    for index, seconds in enumerate(lengths_s):
        paths.append(folder / f"{index:03d}.wav")
        soundfile.write(paths[-1], 0.1 * rng.standard_normal(int(16_000 * seconds)), 16_000, subtype="PCM_16")
    print(f"{count} clips, {spread} lengths, {lengths_s.sum() / 60:.1f} minutes in all")
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--spread", choices=["log-uniform", "uniform"], default="log-uniform")
    parser.add_argument(
        "--memory-of", nargs=3, metavar=("WHO", "CHECKPOINT", "CLIPS"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    measure.use_cores(args.cores)

    def package(model, paths: list[Path]) -> np.ndarray:
        scenes = []
        with torch.inference_mode():
            for path in paths:
                audio, _ = soundfile.read(path, dtype="float32")
                scenes.append(model(torch.from_numpy(audio)[None]).mean(1)[0].numpy())
        return np.stack(scenes)

    if args.memory_of:
        who, checkpoint, clips = args.memory_of
        paths = sorted(Path(clips).glob("*.wav"))
        if who == "package":
            package(measure.load_package(checkpoint), paths)
        else:
            scene_embeddings_of_files(paths, load_model(checkpoint), progress=False)
        print(measure.peak_memory_mib())
        return

    print(measure.machine())
    with measure.random_base_checkpoint() as checkpoint, tempfile.TemporaryDirectory() as folder:
        paths = write_clips(Path(folder), args.clips, args.spread)
        theirs, ours = measure.load_package(checkpoint), load_model(checkpoint)
        reference = package(theirs, paths)
        error = np.abs(scene_embeddings_of_files(paths, ours, progress=False) - reference).max()
        print(f"largest difference {error / np.abs(reference).max():.1e} of the largest value")
        seconds = measure.alternate(
            {
                "package, one clip at a time": lambda: package(theirs, paths),
                "ours, a list of files": lambda: scene_embeddings_of_files(paths, ours, progress=False),
            },
            args.rounds,
        )
        measure.report(seconds, "package, one clip at a time")
        for who in ("package", "ours"):
            options = ["--cores", str(args.cores), "--memory-of", who, str(checkpoint), folder]
            print(f"peak memory, {who}: {float(measure.in_fresh_process(__file__, *options)):.0f} MiB")


if __name__ == "__main__":
    main()
