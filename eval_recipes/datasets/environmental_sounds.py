"""ESC-50, UrbanSound8K and FSDKaggle2018: tables of Freesound clips."""

from __future__ import annotations

from pathlib import Path

from eval_recipes.datasets.clips import TEST, TRAIN, Clip
from eval_recipes.datasets.files import read_table, root_with


def esc50(data: Path) -> tuple[Path, list[Clip]]:
    """ESC-50: `meta/esc50.csv` and `audio/`, in the publisher's 5 folds."""
    root = root_with(data, "meta/esc50.csv", "ESC-50's archive")
    rows = read_table(root / "meta/esc50.csv", ("filename", "fold", "category"))
    return root, [Clip(f"audio/{row['filename']}", row["category"], row["fold"]) for row in rows]


def urbansound8k(data: Path) -> tuple[Path, list[Clip]]:
    """UrbanSound8K: `metadata/UrbanSound8K.csv` and `audio/fold1` to `fold10`, the publisher's folds."""
    root = root_with(data, "metadata/UrbanSound8K.csv", "UrbanSound8K's archive")
    rows = read_table(root / "metadata/UrbanSound8K.csv", ("slice_file_name", "fold", "class"))
    return root, [
        Clip(f"audio/fold{row['fold']}/{row['slice_file_name']}", row["class"], row["fold"]) for row in rows
    ]


def fsdkaggle2018(data: Path) -> tuple[Path, list[Clip]]:
    """FSDKaggle2018: the archives of Zenodo's record side by side.

    Test clips are those that the challenge scored, public and private; the archive of test audio holds
    others, which only filled it up. Training clips are all, though labels of 5763 were not verified by hand.
    """
    meta = "FSDKaggle2018.meta"
    root = root_with(data, f"{meta}/train_post_competition.csv", "FSDKaggle2018's archives")
    clips = []
    for part, table in ((TRAIN, "train_post_competition"), (TEST, "test_post_competition_scoring_clips")):
        rows = read_table(root / meta / f"{table}.csv", ("fname", "label"))
        clips += [Clip(f"FSDKaggle2018.audio_{part}/{row['fname']}", row["label"], part) for row in rows]
    return root, clips
