"""Dasheng as a HEAR module: a checkpoint of any size -> embeddings of any audio.

>>> from hear_dasheng import get_scene_embeddings, load_model
>>> model = load_model("dasheng_base.pt")  # doctest: +SKIP
>>> get_scene_embeddings(audio, model)  # doctest: +SKIP
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def __getattr__(name: str) -> Any:
    """Import torch when a model is wanted, not when the command line prints its help."""
    if name in __all__:
        from hear_dasheng import hear_model

        return getattr(hear_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
