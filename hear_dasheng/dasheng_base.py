"""HEAR module of the released base model; heareval names its result folders after it."""

from __future__ import annotations

from functools import partial

from hear_dasheng.hear_model import get_scene_embeddings, get_timestamp_embeddings, load_sized_model

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

load_model = partial(load_sized_model, "base", "dasheng_base")
