"""Scene embeddings of every peer beside ours: hours of audio per second and core, parameters, dimensions.

Random weights at the true sizes, saved in the published layouts and loaded through each module's
`load_model`; each in a process of its own. Bind it with taskset: it uses the cores that it is given.
The figure is hours of audio by seconds of processor time, summed over the cores, which other
processes on the same cores disturb least; threads that wait do not spin.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import measure
import torch

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "num_conv_pos_embedding_groups": 16,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}


def save_transformers(folder: Path, config, class_name: str, extractor) -> Path:
    import transformers

    getattr(transformers, class_name)(config).save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def whisper(folder: Path) -> Path:
    import transformers

    config = transformers.WhisperConfig(
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
    )
    extractor = transformers.WhisperFeatureExtractor()
    return save_transformers(folder, config, "WhisperForConditionalGeneration", extractor)


def wavlm(folder: Path) -> Path:
    import transformers

    config = transformers.WavLMConfig(**LARGE, **LAYER_NORM)
    return save_transformers(folder, config, "WavLMModel", transformers.Wav2Vec2FeatureExtractor())


def wav2vec2(folder: Path) -> Path:
    import transformers

    config = transformers.Wav2Vec2Config(**LARGE, **LAYER_NORM, conv_bias=True)
    return save_transformers(folder, config, "Wav2Vec2Model", transformers.Wav2Vec2FeatureExtractor())


def data2vec(folder: Path) -> Path:
    import transformers

    config = transformers.Data2VecAudioConfig(**LARGE, num_conv_pos_embeddings=5)
    return save_transformers(folder, config, "Data2VecAudioModel", transformers.Wav2Vec2FeatureExtractor())


def save_vit(path: Path, image: tuple[int, int]) -> Path:
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(img_size=image, patch_size=16, in_chans=1, num_classes=0)
    torch.save({"model": vit.state_dict()}, path)
    return path


def audiomae(folder: Path) -> Path:
    return save_vit(folder / "pretrained.pth", (1024, 128))


def msm_mae(folder: Path) -> Path:
    return save_vit(folder / "checkpoint-100.pth", (80, 512))


def save_dasheng(path: Path, **options) -> Path:
    from dasheng.pretrained.pretrained import Dasheng

    torch.save({"model": Dasheng(**options).state_dict(), "config": options}, path)
    return path


def ced(folder: Path) -> Path:
    patches = {"patch_size": (16, 16), "patch_stride": (16, 16), "target_length": 1012}
    return save_dasheng(folder / "ced_base.pt", embed_dim=768, depth=12, num_heads=12, **patches)


def dasheng_base(folder: Path) -> Path:
    return save_dasheng(folder / "dasheng_base.pt", embed_dim=768, depth=12, num_heads=12)


def dasheng_06b(folder: Path) -> Path:
    return save_dasheng(folder / "dasheng_06b.pt", embed_dim=1280, depth=32, num_heads=16)


def dasheng_12b(folder: Path) -> Path:
    return save_dasheng(folder / "dasheng_12b.pt", embed_dim=1536, depth=40, num_heads=24)


PEERS = {
    "log_mel": ("eval_recipes.baselines.log_mel", None),
    "dasheng_base": ("hear_dasheng", dasheng_base),
    "dasheng_06b": ("hear_dasheng", dasheng_06b),
    "dasheng_12b": ("hear_dasheng", dasheng_12b),
    "ced": ("eval_recipes.baselines.ced", ced),
    "audiomae": ("eval_recipes.baselines.audiomae", audiomae),
    "msm_mae": ("eval_recipes.baselines.msm_mae", msm_mae),
    "whisper": ("eval_recipes.baselines.whisper", whisper),
    "wavlm": ("eval_recipes.baselines.wavlm", wavlm),
    "wav2vec2": ("eval_recipes.baselines.wav2vec2", wav2vec2),
    "data2vec": ("eval_recipes.baselines.data2vec", data2vec),
}


def measure_one(name: str, rounds: int) -> str:
    """A row of the table."""
    module_name, save = PEERS[name]
    module = importlib.import_module(module_name)
    with tempfile.TemporaryDirectory() as folder:
        model = module.load_model(*([save(Path(folder))] if save else []))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rates = []
    for clips, seconds in ((4, 10), (8, 1)):
        audio = 0.1 * torch.randn(clips, 16_000 * seconds)
        taken = []
        for _ in range(rounds + 1):
            start = time.process_time()
            module.get_scene_embeddings(audio, model)
            taken.append(time.process_time() - start)
        rates.append([clips * seconds / 3600 / value for value in taken[1:]])
    cells = [f"{statistics.median(r):.5f} ({min(r):.5f} - {max(r):.5f})" for r in rates]
    size = f"{parameters / 1e6:.1f} M" if parameters else "none"
    return f"| {name} | {size} | {model.scene_embedding_size} | {cells[0]} | {cells[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}  # children's
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if args.only:
        print(measure_one(args.only, args.rounds))
        return
    print(measure.machine())
    print(
        "| module | parameters | dimensions | hours/s/core, 4 clips of 10 s | hours/s/core, 8 clips of 1 s |"
    )
    print("|---|---|---|---|---|", flush=True)
    for name in args.peers:
        output = measure.in_fresh_process(__file__, "--only", name, "--rounds", str(args.rounds))
        print(output.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
