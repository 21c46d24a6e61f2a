"""The taggers' oracle, the published AudioSet recipe on random weights; sounds that a fitted head knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from hear_dasheng.classifier import new_classifier
from hear_dasheng.classifier_checkpoint import export_classifier
from hear_dasheng.export import new_encoder
from hear_dasheng.tag import tag
from hear_dasheng.tagger import Tagger

NAMES = ("noise", "hum", "clicks", "nothing of these, and a name too long for a table")


def flat_state(oracle: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    """The layout of `dasheng_audioset_mAP497.pt`: the encoder's keys, and a head drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    dim = oracle.embed_dim
    head = {
        "outputlayer.0.weight": 1 + 0.1 * torch.randn(dim, generator=generator),
        "outputlayer.0.bias": 0.1 * torch.randn(dim, generator=generator),
        "outputlayer.1.weight": 0.3 * torch.randn(527, dim, generator=generator),
        "outputlayer.1.bias": torch.randn(527, generator=generator),
    }
    return {name: value.clone() for name, value in oracle.state_dict().items()} | head


@torch.no_grad()
def recipe(oracle: nn.Module, state: dict[str, Tensor], clip: Tensor) -> Tensor:
    """Encoder, mean over tokens, LayerNorm, linear layer, sigmoid: (1, samples) -> (1, 527)."""
    head = nn.Sequential(nn.LayerNorm(oracle.embed_dim), nn.Linear(oracle.embed_dim, 527))
    head.load_state_dict(
        {name.removeprefix("outputlayer."): value for name, value in state.items() if "outputlayer" in name}
    )
    return head(oracle(clip).mean(1)).sigmoid()


def sound(kind: str, seconds: float, generator: np.random.Generator) -> np.ndarray:
    """Seconds of one of the sounds that the fitted head tells apart."""
    times = np.arange(round(16_000 * seconds)) / 16_000
    if kind == "noise":
        return 0.1 * generator.standard_normal(len(times))
    if kind == "hum":
        return 0.3 * np.sin(2 * np.pi * generator.uniform(50, 120) * times)
    clicks = np.zeros(len(times))
    clicks[:: generator.integers(1_500, 4_000)] = 0.8
    return clicks


def write_fitted(folder: Path) -> Path:
    """A checkpoint that tells noise, hum and clicks apart: a head fitted to an untrained encoder's tokens."""
    generator = np.random.default_rng(0)
    classifier = new_classifier(new_encoder("tiny"), NAMES)
    model = Tagger(classifier).model
    clips = [torch.from_numpy(sound(kind, 1, generator)).float() for kind in NAMES[:3] for _ in range(10)]
    means = model.scene_embeddings(clips)
    truth = torch.eye(4)[torch.arange(3).repeat_interleave(10)]
    head = classifier.outputlayer.requires_grad_(True)
    optimizer = torch.optim.Adam(head.parameters(), 0.03)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(head(means), truth).backward()
        optimizer.step()
    return export_classifier(classifier, folder / "sounds")


def write_sounds(folder: Path) -> None:
    """A scene in stereo at 48 kHz, and a short clip."""
    generator = np.random.default_rng(1)
    scene = np.concatenate([sound(kind, 2, generator) for kind in ("hum", "noise", "clicks", "hum")])
    soundfile.write(folder / "scene.flac", np.repeat(scene, 3)[:, None].repeat(2, 1), 48_000)
    soundfile.write(folder / "short.wav", sound("noise", 1, generator), 16_000)


def invoke(*arguments: object) -> Result:
    """Run `hear-dasheng tag` in this process and working directory."""
    return CliRunner().invoke(tag, [str(argument) for argument in arguments])


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **options: str) -> Path:
    """An audio file in the format of its name."""
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(path, "w", rate, channels, **options) as file:
        for start in range(0, len(samples), rate):  # at once, Vorbis overflows its stack
            file.write(samples[start : start + rate])
    return path
