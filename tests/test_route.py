"""From audio files to a table of scores, through every command, with the official tools."""

import csv
import json
import re
import subprocess
import sys
import tarfile

import pytest
from conftest import run_command

from eval_recipes import synthetic_tasks
from eval_recipes.results import primary_score


def test_from_audio_files_to_scores(tmp_path):
    """Audio -> shards -> a pretrained checkpoint; tasks -> import -> validate, embed, score, report."""
    source = tmp_path / "source"
    synthetic_tasks.scene_multiclass(source, clips_per_fold=6)
    synthetic_tasks.scene_multilabel(source, clips=(12, 6, 6))
    synthetic_tasks.event_detection(source, clips=(2, 1, 1))
    with tarfile.open(tmp_path / "hear.tar.gz", "w:gz") as tar:
        tar.add(source, "hear-2021.0.6/tasks")

    def run(*arguments: str) -> str:
        result = run_command(*arguments, cwd=tmp_path)
        assert result.returncode == 0, f"{arguments}: {result.stdout}\n{result.stderr}"
        return result.stdout

    run("tasks", "import", "hear.tar.gz")
    pack = ["-m", "pretrain.wavlist_to_tar", "audio.tsv", "shards", "--size_per_file", "16", "-n", "1"]
    synthetic_tasks.unlabelled_audio(tmp_path / "audio", clips=24)
    subprocess.run([sys.executable, *pack], cwd=tmp_path, check=True, capture_output=True)
    data = ["--train_data", "shards/audio_0000000.tar", "--cv_data", "shards/audio_0000001.tar"]
    short = ["--epochs", "1", "--epoch_length", "3", "--warmup_iters", "0", "--batch_size", "4"]
    run("pretrain", "demo", *data, *short, "--run_dir", "checkpoint")
    assert "Looks good!" in run("validate", "hear_dasheng", "--model", "checkpoint")
    run("embed", "hear_dasheng", "--model", "checkpoint", "--model-options", '{"layers": [2, -1]}')
    folder = tmp_path / "embeddings" / "hear_dasheng-layers=2-1"
    dimensions = json.loads(
        (folder / "demo_which_sound-v1-small" / "fold00.embedding-dimensions.json").read_text()
    )
    assert dimensions == [6, 2 * 192]
    run("score", str(folder), "--grid", "faster", "--grid-points", "1")
    metrics = {
        "demo_which_sound": "top1_acc",
        "demo_sounds_in_mix": "mAP",
        "demo_events": "event_onset_200ms_fms",
    }
    for name, metric in metrics.items():
        score = primary_score(folder / f"{name}-v1-small")
        assert score.metric == metric
        assert 0 <= score.mean <= 1
    run("report", str(folder), "--out", "report")
    assert "demo_which_sound" in (tmp_path / "report" / "index.html").read_text()
    referee = ["--grid", "faster", "--grid-points", "1", "--quiet", "--redo"]
    run("heareval", "predictions", str(folder / "demo_sounds_in_mix-v1-small"), *referee)


@pytest.mark.slow
def test_the_demo_ends_in_its_table_and_goes_on_where_it_stopped(tmp_path):
    first = run_command("demo", cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    table = first.stdout[first.stdout.index("Scores after HEAR's protocol") :]
    scores = {
        title: [float(score) for score in re.findall(rf"{title} +(\d\.\d\d)", table)]
        for title in ("log-mel statistics", "tiny Dasheng, UNTRAINED", "tiny Dasheng, pretrained")
    }
    assert [len(of_tasks) for of_tasks in scores.values()] == [3, 3, 3]
    _, untrained, pretrained = scores.values()
    wins = sum(after > before for before, after in zip(untrained, pretrained, strict=True))
    assert wins >= 1, f"pretraining helped nowhere: {scores}"
    with (tmp_path / "demo/report/scores.csv").open() as opened:
        reported = [(line["model"], f"{float(line['score']):.2f}") for line in csv.DictReader(opened)]
    assert sorted(reported) == sorted(
        (title, f"{score:.2f}") for title, of_tasks in scores.items() for score in of_tasks
    )
    again = run_command("demo", cwd=tmp_path)
    assert again.stdout.count("already embedded") == again.stdout.count("already scored") == 9
    assert again.stdout.endswith(table)
