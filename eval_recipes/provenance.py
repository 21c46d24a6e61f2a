"""What a result was made from: checkpoint hash, task files, options, versions, command.

Each step leaves one JSON file in the folder of its results. A later run compares
it with what it is asked for, so that results of another checkpoint are never
taken for this one's.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from hear_dasheng.files.atomic import write_atomically
from hear_dasheng.files.failures import shown
from hear_dasheng.files.json_shape import check_shape
from hear_dasheng.files.strict_json import JsonProblem, read_json_object
from safe_download.checksum import blocks_of

PACKAGES = (
    "hear_dasheng",
    "hearvalidator",
    "heareval",
    "torch",
    "numpy",
    "pytorch-lightning",
    "scikit-learn",
    "timm",
    "transformers",
)

WEIGHTS_FILE = "model.safetensors"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
CONFIG_FILES = ("config.json", "preprocessor_config.json")
"""What a model is, in Hugging Face's layout."""

HUB_SNAPSHOT = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/([^/]+)(?:/|$)")
"""Where the local Hub cache keeps the files of a commit."""

UNIDENTIFIED = (
    "the module's own default weights, which are not identified: if they change, results of the old ones are "
    "taken for theirs; weights named with --model are told apart"
)


def sha256_of(path: Path) -> str:
    """Hash of a file, or of a folder's files with their names (hidden ones left out)."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    for file in files:
        if file != path:
            relative = file.relative_to(path)
            if any(part.startswith(".") for part in relative.parts):
                continue
            digest.update(str(relative).encode() + b"\0")
        for block in blocks_of(file):
            digest.update(block)
    return digest.hexdigest()


def model_identity(
    module: str, model: str | None, options: dict[str, Any], loaded_from: str | None = None
) -> dict[str, Any]:
    """What embeddings depend on, beside the audio: module, checkpoint, options, and files that options name.

    Args:
        module: its name.
        model: a checkpoint's path, or a name that the module has resolved: a Hub id is recorded with the
            commit that the local Hub cache has, so load the model first. None: the module's own choice.
        options: of its `load_model`.
        loaded_from: the model's `checkpoint_path`: the file or folder that a name, or the module's own
            choice, stood for; empty for a model without weights. None: the model does not say. Then, without
            a Hub id, weights of a name are not identified; see `are_unidentified`.

    Returns:
        `module`, `options`, `checkpoint` (a path's hash, or the name, with the commit if it is from the Hub),
        and, for names, `checkpoint_sha256`: the hash of each file of weights.
    """
    files = {name: sha256_of(Path(value)) for name, value in options.items() if _is_file(value)}
    checkpoint = checkpoint_identity(model)["sha256"] or _from_hub(model, loaded_from)
    checkpoint = checkpoint or _name_with_revision(model or "")
    identity = {"module": module, "checkpoint": checkpoint, "options": options}
    if not is_hash(checkpoint):
        hashes = _hashes(_weights_of(loaded_from, checkpoint))
        if hashes or loaded_from == "":
            identity["checkpoint_sha256"] = hashes
    return identity | ({"files_of_options": files} if files else {})


def are_unidentified(identity: dict[str, Any]) -> bool:
    """Return whether embeddings depend on weights of which nothing is known; see `UNIDENTIFIED`."""
    return identity.get("checkpoint") == "" and "checkpoint_sha256" not in identity


def _from_hub(model: str | None, loaded_from: str | None) -> str:
    """Return `owner/name@commit` of weights in the local Hub cache; an empty string for others."""
    if not (match := HUB_SNAPSHOT.search(Path(loaded_from or "").as_posix())):
        return ""
    owner, name, commit = match.groups()
    return f"{model or f'{owner}/{name}'}@{commit}"


def _weights_of(loaded_from: str | None, name: str) -> list[Path]:
    """Return the files of weights that a name stands for: those loaded, or a Hub id's in the Hub's cache."""
    folder = Path(loaded_from) if loaded_from else _snapshot(name)
    if folder is None or folder.is_file():
        return [folder] if folder else []
    found = sorted(file for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES)
    return [file for file in found if file.suffix == ".safetensors"] or found


def _snapshot(name: str) -> Path | None:
    """Return the folder of `owner/name@commit` in the local Hub cache, if it is there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    repository, _, commit = name.rpartition("@")
    owner, _, rest = repository.partition("/")
    folder = Path(HF_HUB_CACHE, f"models--{owner}--{rest.partition('/')[0]}", "snapshots", commit)
    return folder if owner and commit and folder.is_dir() else None


def _hashes(files: list[Path]) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in files}


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and os.path.isfile(value)


def _name_with_revision(name: str) -> str:
    """`owner/name` -> `owner/name@revision`, if the local Hub cache knows; other names as they are."""
    from huggingface_hub.constants import HF_HUB_CACHE

    owner, slash, repository = name.partition("/")
    folder = f"models--{owner}--{repository.partition('/')[0]}"
    revision = Path(HF_HUB_CACHE, folder, "refs", "main")
    if not slash or "://" in name or not os.path.isfile(revision):
        return name
    return f"{name}@{revision.read_text().strip()}"


def checkpoint_identity(model: str | None) -> dict[str, str]:
    """Path and hash of a checkpoint; of none, that the module chose its own weights.

    Of a folder in Hugging Face's layout only the configuration and the weights count: beside
    them a run keeps its logs, which grow when it is resumed though the encoder stays.
    """
    if not model:
        return {"model": "the module's default", "sha256": ""}
    path = Path(model)
    if not os.path.exists(model):  # a name, perhaps longer than any file's
        return {"model": model, "sha256": ""}
    if not (path / WEIGHTS_FILE).is_file():
        return {"model": model, "sha256": sha256_of(path)}
    names = (*CONFIG_FILES, WEIGHTS_FILE)
    hashes = [f"{name} {sha256_of(path / name)}" for name in names if (path / name).is_file()]
    return {"model": model, "sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest()}


def task_identity(task_dir: Path) -> str:
    """Hash of a task's metadata, vocabulary and split lists (not of its audio)."""
    digest = hashlib.sha256()
    for file in sorted([*task_dir.glob("*.json"), *task_dir.glob("*.csv")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Python and the packages that can change a score."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON atomically."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def circumstances(seconds: float) -> dict[str, Any]:
    """How this process makes a result: its command, versions, and how long it took."""
    return {"command": shown(" ".join(sys.argv)), "versions": versions(), "seconds": round(seconds, 3)}


def record(path: Path, identity: dict[str, Any], seconds: float, **further: Any) -> None:
    """Leave a provenance file: `identity` is what a later run must match, but not what is told `further`."""
    if are_unidentified(identity):
        further["weights"] = UNIDENTIFIED
    write_json(path, {"identity": identity, **further, **circumstances(seconds)})


def difference(path: Path, identity: dict[str, Any]) -> str:
    """How `identity` differs from the recorded one; empty if it does not."""
    if not path.is_file():
        return "there is no record of what they were made from"
    try:
        recorded = read_json_object(path)
        check_shape(recorded, {"identity": dict}, str(path))
    except JsonProblem as problem:
        return f"their record is damaged: {problem}"
    recorded = recorded["identity"]
    names = [name for name in identity if recorded.get(name) != identity[name]]
    return "; ".join(
        f"{name} was {_short(recorded.get(name))}, now {_short(identity[name])}" for name in names
    )


def _short(value: Any) -> str:
    """A value for a message; of a hash its first twelve digits."""
    return f"{value[:12]}..." if is_hash(value) else repr(value)


def in_short(checkpoint: str, digits: int = 12) -> str:
    """The first digits of a hash; a name as it is, since names begin alike.

    >>> in_short("5d" * 32), in_short("owner/name@1f2e")
    ('5d5d5d5d5d5d', 'owner/name@1f2e')
    """
    return checkpoint[:digits] if is_hash(checkpoint) else checkpoint


def is_hash(value: Any) -> bool:
    """Whether a recorded value is a SHA-256, not a name."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
