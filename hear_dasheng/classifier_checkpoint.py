"""A checkpoint with a classifier's head <-> `Classifier`.

Two layouts, both read and written. The published one, of the AudioSet-finetuned
model: a flat state dict, the encoder's keys and `outputlayer.0.*` (LayerNorm) and
`outputlayer.1.*` (linear); it has no place for class names, which are AudioSet's.
And ours, as that of our encoders: a folder with `model.safetensors` and a
`config.json` that holds the names (`id2label`) and whether one or several of them
are true (`problem_type`), in the words of the library transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hear_dasheng.audioset import N_CLASSES, audioset_names
from hear_dasheng.checkpoint import encoder_of
from hear_dasheng.checkpoint_files import CheckpointError, floats_of, read_checkpoint
from hear_dasheng.classifier import Classifier, new_classifier
from hear_dasheng.export import published_state, write_folder, written_at
from hear_dasheng.files.write_errors import remembering_file

HEAD_KEY = re.compile(r"(?:^|.*\.)outputlayer\.([01]\.(?:weight|bias))$")
HEAD_TENSORS = ("0.weight", "0.bias", "1.weight", "1.bias")
MULTI_LABEL = "multi_label_classification"
SINGLE_LABEL = "single_label_classification"


def load_classifier(path: str | Path, num_heads: int | None = None) -> Classifier:
    """Build the classifier that a local checkpoint holds, in evaluation mode.

    Args:
        path: a file, or a folder with `config.json` and `model.safetensors`.
        num_heads: attention heads, for a checkpoint that does not tell them.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: damaged, foreign, unsafe, incomplete, or an encoder without
            a head; the message says which.
    """
    return classifier_of(*read_checkpoint(Path(path)), num_heads)


def has_head(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's state dict holds a classifier's head, or some of one."""
    return any(HEAD_KEY.match(str(key)) for key in state)


def classifier_of(
    path: Path, state: Mapping[str, Any], file_config: Mapping[str, Any], num_heads: int | None = None
) -> Classifier:
    """Build the classifier that a checkpoint's content holds; arguments and errors are `encoder_of`'s."""
    encoder = encoder_of(path, state, file_config, num_heads)
    head = _head(state, path, encoder.config.dim)
    names = _class_names(file_config, len(head["1.bias"]), path)
    classifier = new_classifier(encoder, names, _is_multi_label(file_config, path))
    classifier.outputlayer.load_state_dict(head, assign=True)
    return classifier.eval().requires_grad_(False)


def export_classifier(classifier: Classifier, path: str | Path, layout: str = "huggingface") -> Path:
    """Write a classifier's checkpoint; `load_model` reads its encoder, `load_classifier` all of it.

    Args:
        classifier: what to write.
        path: the folder ("huggingface") or `.pt` file ("published") to create.
        layout: one of `export.FORMATS`.

    Raises:
        ValueError: unknown layout, or classes for which the published one has no place.
        FileExistsError: something is there already; it is left alone.
    """
    with written_at(path, layout) as partial:
        write_classifier(classifier, partial, layout)
    return Path(path)


def write_classifier(classifier: Classifier, path: Path, layout: str = "huggingface") -> None:
    """Write a classifier's checkpoint to a new path that the caller makes atomic; see `export_classifier`."""
    head = {f"outputlayer.{name}": value for name, value in classifier.outputlayer.state_dict().items()}
    head = {name: value.detach().cpu().contiguous() for name, value in head.items()}
    is_audioset = classifier.class_names == audioset_names() and classifier.is_multi_label
    if layout == "published" and not is_audioset:
        raise ValueError(
            f"the published layout has no place for class names and means AudioSet's {N_CLASSES}; "
            f"write these {len(classifier.class_names)} classes in the layout 'huggingface'"
        )
    if layout == "published":
        with remembering_file(path) as file:
            torch.save(published_state(classifier.encoder) | head, file)
    else:
        config = {
            "id2label": {str(index): name for index, name in enumerate(classifier.class_names)},
            "problem_type": MULTI_LABEL if classifier.is_multi_label else SINGLE_LABEL,
        }
        write_folder(classifier.encoder, path, head, config)


def _head(state: Mapping[str, Any], path: Path, dim: int) -> dict[str, Tensor]:
    """LayerNorm and linear layer of a state dict, in float32."""
    head: dict[str, Tensor] = {}
    for key, value in state.items():
        match = HEAD_KEY.match(str(key))
        if match is not None:
            if match.group(1) in head:
                raise CheckpointError(f"{path}: {key!r} stands there twice")
            head[match.group(1)] = floats_of(value, key, path)
    if not head:
        raise CheckpointError(
            f"{path} holds an encoder and no classifier (no outputlayer.*); "
            "give a checkpoint that was fine-tuned on labels, such as dasheng_audioset_mAP497.pt"
        )
    if missing := [f"outputlayer.{name}" for name in HEAD_TENSORS if name not in head]:
        raise CheckpointError(f"the classifier of {path} is incomplete: it has no {', '.join(missing)}")
    classes = head["1.weight"].shape[0] if head["1.weight"].ndim else 0
    expected = {"0.weight": (dim,), "0.bias": (dim,), "1.weight": (classes, dim), "1.bias": (classes,)}
    for name, shape in expected.items():
        if tuple(head[name].shape) != shape or not classes:
            raise CheckpointError(
                f"{path}: outputlayer.{name} has the shape {tuple(head[name].shape)} instead of {shape}"
            )
        if not head[name].isfinite().all():
            raise CheckpointError(f"{path}: outputlayer.{name} holds values that are not finite")
    return head


def _class_names(file_config: Mapping[str, Any], n_classes: int, path: Path) -> tuple[str, ...]:
    """The stated names; without any, AudioSet's if there are as many, else numbers."""
    stated = file_config.get("id2label")
    if stated is None:
        return audioset_names() if n_classes == N_CLASSES else tuple(f"class {n}" for n in range(n_classes))
    wanted = [str(index) for index in range(n_classes)]
    if not isinstance(stated, Mapping) or sorted(map(str, stated)) != sorted(wanted):
        found = len(stated) if isinstance(stated, Mapping) else repr(stated)
        raise CheckpointError(
            f"{path} has {n_classes} outputs, but its config's id2label does not name 0 to {n_classes - 1} "
            f"(it has {found})"
        )
    by_number = {str(index): str(name) for index, name in stated.items()}
    return tuple(by_number[index] for index in wanted)


def _is_multi_label(file_config: Mapping[str, Any], path: Path) -> bool:
    problem = file_config.get("problem_type") or MULTI_LABEL
    if problem not in (MULTI_LABEL, SINGLE_LABEL):
        raise CheckpointError(f"{path}: problem_type={problem!r}; choose {MULTI_LABEL} or {SINGLE_LABEL}")
    return problem == MULTI_LABEL
