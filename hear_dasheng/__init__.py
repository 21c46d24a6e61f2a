"""Dasheng as a HEAR module: a checkpoint of any size -> embeddings of any audio.

>>> from hear_dasheng import get_scene_embeddings, load_model  # doctest: +SKIP
>>> model = load_model("dasheng_base.pt")  # doctest: +SKIP
>>> get_scene_embeddings(audio, model)  # doctest: +SKIP
"""

from hear_dasheng.hear_model import get_scene_embeddings, get_timestamp_embeddings, load_model

__version__ = "0.1.0"
__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]
