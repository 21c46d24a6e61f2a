"""CED as a HEAR module.

Dinkel et al., "CED: consistent ensemble distillation for audio tagging" (ICASSP 2024); the
paper's row is CED-Base. Its encoder is Dasheng's over patches of 16 x 16, so that the work is
done by the HEAR module `hear_dasheng.ced`, reached by name like any other; see there for
input, windows, timestamps and options.
"""

from __future__ import annotations

import importlib

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

_module = importlib.import_module("hear_dasheng.ced")
load_model = _module.load_model
get_scene_embeddings = _module.get_scene_embeddings
get_timestamp_embeddings = _module.get_timestamp_embeddings
