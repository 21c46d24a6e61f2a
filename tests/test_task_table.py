"""HEAR's tasks as a table: complete, consistent, and found by any of their names."""

import csv
import io
import re

import pytest
from conftest import REPOSITORY, run_command
from file_server import running_server
from hypothesis import given
from hypothesis import strategies as st

from eval_recipes.disk_space import Need, clips_bytes, fullest
from eval_recipes.task_table import HearTask, UnknownTask, find_tasks, hear_tasks

# Dinkel et al. 2024 average 4, 6 and 8 tasks in their domains.
TASKS_IN_DOMAIN = {"Environment": 4, "Speech": 6, "Music": 8, None: 2}


def test_there_are_19_tasks_in_20_folders():
    assert len(hear_tasks()) == len({task.folder for task in hear_tasks()}) == 20
    assert len({task.title for task in hear_tasks()}) == 19
    domains = [task.domain for task in hear_tasks()]
    assert {domain: domains.count(domain) for domain in set(domains)} == TASKS_IN_DOMAIN


def test_every_row_is_consistent():
    for task in hear_tasks():
        assert f"{task.name}-{task.version}-{task.mode}" == task.folder
        assert task.archive == f"hear2021-{task.folder}-48000.tar.gz"
        assert (task.folds is None) == (task.split_mode == "trainvaltest")
        assert (task.embedding == "event") == task.metric.startswith("event_")
        assert task.clips > 0
        assert task.classes > 1
        assert task.hours > 0


def test_known_rows():
    esc50, fsd50k = find_tasks(["esc50", "fsd50k"])
    assert esc50 == HearTask(
        folder="esc50-v2.0.0-full",
        title="ESC-50",
        domain="Environment",
        embedding="scene",
        prediction="multiclass",
        split_mode="presplit_kfold",
        folds=5,
        metric="top1_acc",
        seconds=5.0,
        hours=2000 * 5 / 3600,
        clips=2000,
        classes=50,
        archive_bytes=None,
        licence="CC BY-NC 3.0",
    )
    assert (fsd50k.seconds, fsd50k.hours, fsd50k.metric) == (None, 108.3, "mAP")


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["esc50-v2.0.0-full"], ["esc50-v2.0.0-full"]),
        (["CREMA-D"], ["tfds_crema_d-1.0.0-full"]),
        (["crema_d", "tfds_crema_d"], ["tfds_crema_d-1.0.0-full"]),
        (["beehive states"], ["beehive_states_fold0-v2-full", "beehive_states_fold1-v2-full"]),
        (["speech_commands"], ["speech_commands-v0.0.2-5h", "speech_commands-v0.0.2-full"]),
        (["libricount", "ESC50"], ["esc50-v2.0.0-full", "libricount-v1.0.0-hear2021-full"]),
    ],
)
def test_tasks_are_found_by_any_name(names, folders):
    assert [task.folder for task in find_tasks(names)] == folders


def test_all_means_all():
    assert find_tasks(["all", "esc50"]) == list(hear_tasks())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("esc-5", "esc50"),
        ("nsynth", "nsynth"),
        ("gtzan_musicspeech", "tfds_gtzan_music"),
        ("voxlingua", "vox_"),
    ],
)
def test_unknown_names_suggest_the_nearest(name, nearest):
    with pytest.raises(UnknownTask, match=f"no task '{name}'; did you mean {nearest}"):
        find_tasks(["esc50", name])


def test_names_that_are_near_nothing_point_to_the_list():
    with pytest.raises(UnknownTask, match=r"no task 'qqqqqq'. `hear-dasheng tasks list` shows all"):
        find_tasks(["qqqqqq"])


def test_the_readme_tells_the_true_sizes():
    def total_gb(rate_hz: int) -> int:
        return round(sum(clips_bytes(task, rate_hz) for task in hear_tasks()) / 10**9)

    readme = (REPOSITORY / "README.md").read_text()
    said = re.search(r"about (\d+) GB for all tasks at 16 kHz, (\d+) GB more", readme)
    assert [int(number) for number in said.groups()] == [total_gb(16_000), total_gb(48_000)]


def test_the_list_is_a_table_or_csv(tmp_path):
    table = run_command("tasks", "list", cwd=tmp_path).stdout.splitlines()
    assert table[0].split()[:3] == ["folder", "domain", "embedding"]
    assert len(table) == 1 + 20 + 3
    assert "`hear-dasheng tasks list --online` asks it" in table[-1]
    cells = [cell for row in table for cell in row.split()]
    assert "<0.01" in cells
    assert "0.00" not in cells
    rows = run_command("tasks", "list", "esc50", "maestro", "--format", "csv", cwd=tmp_path).stdout
    esc50, maestro = csv.DictReader(io.StringIO(rows))
    assert esc50["archive"] == "hear2021-esc50-v2.0.0-full-48000.tar.gz"
    assert float(esc50["gb_at_16k"]) == pytest.approx(2000 * (5 * 32_000 + 4096) / 1e9, rel=1e-5)
    assert (esc50["archive_gb"], maestro["licence"], maestro["version"]) == (
        "unknown",
        "CC BY-NC-SA 4.0",
        "v3.0.0",
    )
    failed = run_command("tasks", "list", "maestros", cwd=tmp_path)
    assert failed.returncode == 1
    assert "did you mean maestro-v3.0.0-5h?" in failed.stderr


def test_the_list_asks_the_record_for_sizes(tmp_path):
    with running_server() as server:
        server.files = {"hear2021-esc50-v2.0.0-full-48000.tar.gz": b""}
        server.sizes = {"hear2021-esc50-v2.0.0-full-48000.tar.gz": 1_230_000_000}
        options = ("--online", "--format", "csv", "--zenodo", server.url)
        result = run_command("tasks", "list", "esc50", "libricount", *options, cwd=tmp_path)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["archive_gb"] for row in rows] == ["1.23", "unknown"]


bytes_ = st.integers(0, 100)
needs = st.builds(
    lambda archive, here, clips, clips_here: Need(archive, min(archive, here), clips, clips_here),
    bytes_,
    bytes_,
    bytes_,
    bytes_,
)


@given(st.lists(needs, min_size=1, max_size=6), st.booleans())
def test_the_fullest_moment_is_never_passed_in_a_simulated_run(tasks, keeps_archives):
    archives, clips, both = fullest(tasks, keeps_archives)
    on_disk = {"archives": 0, "clips": 0}
    seen = []
    for need in tasks:
        on_disk["archives"] += need.archive_bytes - need.archive_here_bytes
        seen.append(dict(on_disk))
        on_disk["clips"] += max(0, need.clips_bytes - need.clips_here_bytes)
        seen.append(dict(on_disk))
        if not keeps_archives:
            on_disk["archives"] -= need.archive_bytes
    assert archives == max(0, *(state["archives"] for state in seen))
    assert clips == max(state["clips"] for state in seen)
    assert both == max(0, *(sum(state.values()) for state in seen))
