"""Small data sets in their publishers' layouts, for the tests of nearest neighbours."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile


def touch(root: Path, paths: Iterable[str]) -> None:
    """Empty files: enough where only names are read."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def tone(path: Path, hz: float, seed: int = 0, seconds: float = 0.4, rate_hz: int = 16_000) -> None:
    """A tone in noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(times))
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * hz * times) + noise, rate_hz)


def tones_per_class(root: Path, n: int = 6) -> Path:
    """Three classes of tones, a folder each."""
    for label, hz in (("low", 200), ("middle", 1000), ("high", 4000)):
        for number in range(n):
            tone(root / label / f"{number}.wav", hz * (1 + 0.002 * number), number, 0.3 + 0.05 * number)
    return root


def write_table(path: Path, header: str, rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def esc50(root: Path, folds: int = 5, classes: int = 50, takes: int = 8) -> Path:
    rows = [
        (f"{fold}-{1000 * label + take}-A-{label}.wav", fold, label, f"class {label}", False, 0, "A")
        for fold in range(1, folds + 1)
        for label in range(classes)
        for take in range(takes)
    ]
    write_table(root / "meta/esc50.csv", "filename,fold,target,category,esc10,src_file,take", rows)
    touch(root, [f"audio/{row[0]}" for row in rows])
    return root


def urbansound8k(root: Path) -> Path:
    header = "slice_file_name,fsID,start,end,salience,fold,classID,class"
    rows = [(f"{n}-{n % 3}-0-0.wav", n, 0.0, 4.0, 1, n % 10 + 1, n % 3, f"class {n % 3}") for n in range(30)]
    write_table(root / "metadata/UrbanSound8K.csv", header, rows)
    touch(root, [f"audio/fold{row[5]}/{row[0]}" for row in rows])
    return root


def fsdkaggle2018(root: Path) -> Path:
    train = [(f"{n:08x}.wav", ("Bark", "Meow")[n % 2], n % 2, n, "CC0") for n in range(6)]
    test = [(f"{n + 64:08x}.wav", ("Bark", "Meow")[n % 2], "Public", n, "CC0") for n in range(4)]
    meta = root / "FSDKaggle2018.meta"
    columns = "freesound_id,license"
    write_table(meta / "train_post_competition.csv", f"fname,label,manually_verified,{columns}", train)
    write_table(meta / "test_post_competition_scoring_clips.csv", f"fname,label,usage,{columns}", test)
    touch(root, [f"FSDKaggle2018.audio_train/{row[0]}" for row in train])
    touch(root, [f"FSDKaggle2018.audio_test/{row[0]}" for row in [*test, ("padding.wav",)]])
    return root


def nsynth(root: Path) -> Path:
    for part, families in (
        ("train", ["bass", "flute", "synth_lead"]),
        ("valid", ["bass"]),
        ("test", ["bass"]),
    ):
        notes = {f"{family}_{part}_00{n}-060-100": family for family in families for n in range(2)}
        folder = root / f"nsynth-{part}"
        touch(folder, [f"audio/{note}.wav" for note in notes])
        described = {note: {"note": 1, "instrument_family_str": its} for note, its in notes.items()}
        (folder / "examples.json").write_text(json.dumps(described))
    return root


def speech_commands(root: Path) -> Path:
    words = [
        f"{word}/{speaker}_nohash_0.wav" for word in ("bed", "yes") for speaker in ("aa", "bb", "cc", "dd")
    ]
    touch(root, [*words, "_background_noise_/running_tap.wav"])
    (root / "validation_list.txt").write_text("bed/cc_nohash_0.wav\nyes/cc_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("bed/dd_nohash_0.wav\nyes/dd_nohash_0.wav\n")
    return root


def voxceleb1(root: Path, speakers: int = 3) -> Path:
    lines = []
    for speaker in range(1, speakers + 1):
        for number, part in enumerate((1, 1, 2, 3)):
            name = f"id1{speaker:04}/video{number}/00001.wav"
            lines.append(f"{part} {name}")
            touch(root / ("test/wav" if speaker == 1 else "wav"), [name])
    (root / "iden_split.txt").write_text("\n".join(lines) + "\n")
    return root


def ravdess(root: Path, actors: int = 24) -> Path:
    for actor in range(1, actors + 1):
        moods = [(1, 1), *((mood, strength) for mood in range(2, 9) for strength in (1, 2))]
        names = [
            f"03-01-{mood:02}-{strength:02}-{statement:02}-{take:02}-{actor:02}.wav"
            for mood, strength in moods
            for statement in (1, 2)
            for take in (1, 2)
        ]
        touch(root / f"Actor_{actor:02}", names)
    return root


def fluent_speech_commands(root: Path) -> Path:
    header = ",path,speakerId,transcription,action,object,location"
    said = [
        ('"Turn the lights on, please"', "activate", "lights", "none"),
        ("Lights on", "activate", "lights", "none"),
        ("Lights off in the kitchen", "deactivate", "lights", "kitchen"),
    ]
    for part, n in (("train", 6), ("valid", 3), ("test", 3)):
        rows = [(i, f"wavs/speakers/x{part}/{i}.wav", f"x{part}", *said[i % 3]) for i in range(n)]
        write_table(root / f"data/{part}_data.csv", header, rows)
        touch(root, [str(row[1]) for row in rows])
    return root
