"""HEAR modules of a user's own, written into the working directory."""

import textwrap
from pathlib import Path


def write_module(
    folder: Path, name: str, scene: str, *, training: bool = False, before: str = "pass"
) -> None:
    """A module of four features.

    Args:
        folder: the working directory.
        name: of the module.
        scene: what `get_scene_embeddings(audio, model)` returns.
        training: whether its model is left in training mode.
        before: a statement before that.
    """
    (folder / f"{name}.py").write_text(
        textwrap.dedent(f"""
        import os, time, torch
        class Model(torch.nn.Module):
            sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 4, 4
        def load_model(path=""):
            return Model().train({training})
        def get_scene_embeddings(audio, model):
            {before}
            return {scene}
        def get_timestamp_embeddings(audio, model):
            times = torch.arange(20.0, 1000 * audio.shape[1] / 16000, 40).expand(len(audio), -1)
            return audio[:, None, :4].expand(-1, times.shape[1], -1), times
    """)
    )
