"""File lists, the shards made of them, and what is in these."""

import csv
import json
from pathlib import Path

import numpy as np
import soundfile
from click.testing import CliRunner
from webdataset.tariterators import group_by_keys, tar_file_expander

from pretrain.wavlist_to_tar import main


def write_clips(folder: Path, names, seconds: float = 0.05, rate_hz: int = 8_000) -> list[str]:
    """Noise, different in each file; the paths as text."""
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(index).normal(size=round(seconds * rate_hz))
        soundfile.write(folder / name, noise, rate_hz, format="WAV")
    return [str(folder / name) for name in names]


def write_table(path: Path, columns: dict[str, list], delim: str = "\t") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter=delim, lineterminator="\n")
        table.writerow(columns)
        table.writerows(zip(*columns.values(), strict=True))
    return path


def samples_of(out: Path) -> list[dict]:
    """What webdataset reads from all shards of a folder (its `WebDataset` would leave them open)."""
    samples = []
    for path in sorted(out.glob("*.tar*")):
        with path.open("rb") as stream:
            samples += group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
    return samples


def rejects_of(out: Path, stem: str = "list") -> dict[int, tuple[str, str]]:
    with (out / f"{stem}_rejects.tsv").open(newline="", encoding="utf-8") as file:
        return {
            int(line["row"]): (line["filename"], line["reason"])
            for line in csv.DictReader(file, delimiter="\t")
        }


def run(*arguments) -> tuple[int, str]:
    """The command's exit code and all that it says."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def manifest_of(out: Path) -> dict:
    return json.loads((out / "list_manifest.json").read_text())


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.endswith(".lock")}


def list_of_25(folder: Path) -> Path:
    """A list with 25 files, two of them gone, and labels."""
    paths = write_clips(folder, [f"{index}.wav" for index in range(25)], seconds=0.2)
    Path(paths[3]).unlink()
    Path(paths[7]).unlink()
    return write_table(folder / "list.tsv", {"filename": paths, "label": range(25)})
