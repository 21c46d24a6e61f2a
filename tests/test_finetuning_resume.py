"""A fine-tuning run that is killed, or goes on with other classes, or on two processes."""

import json
from pathlib import Path

import pytest
import torch
from finetuning_data import EVERYTHING, SMALL_MODEL, finetune_config, settings, write_unequal_classes
from pretraining_data import write_config
from process_cases import on_processes
from resume_cases import lines_of, run_until_killed
from safetensors.torch import load_file

from hear_dasheng.classifier_checkpoint import load_classifier
from pretrain.train import objective_of, train
from pretrain.training.build import join_processes, new_accelerator
from pretrain.training.epoch_end import EpochEnd
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.processes import Processes
from pretrain.training.read_config import ConfigError, read_config
from pretrain.training.run_folder import latest_state
from pretrain.training.validation import validate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[str, str]:
    return write_unequal_classes(tmp_path_factory.mktemp("labelled"))


def test_a_run_killed_again_and_again_ends_bit_identical(shards, tmp_path):
    model = SMALL_MODEL | {"drop_rate": 0.1}
    options = EVERYTHING | {"model_args": model, "save_every": 4, "ema_decay": 0.9, "num_workers": 1}
    config = write_config(tmp_path / "c.yaml", settings(*shards, **options, resampled=False, n_saved=2))
    whole, parted = ["--run_dir", str(tmp_path / "whole")], tmp_path / "parted"
    train(read_config(config, whole, FinetuneConfig), config)
    for moment, at in [("step", 5), ("write", 8), ("remove", 12)]:
        run_until_killed(moment, at, config, parted, FinetuneConfig)
    train(read_config(config, ["--run_dir", str(parted)], FinetuneConfig), config, resume=True)
    for name in ("model.safetensors", "last/model.safetensors", "ema/model.safetensors"):
        ours, theirs = load_file(parted / name), load_file(tmp_path / "whole" / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    for name in ("model.safetensors", "optimizer.bin"):
        states = [latest_state(run) / name for run in (parted, tmp_path / "whole")]
        assert states[0].read_bytes() == states[1].read_bytes(), name
    assert lines_of(parted) == lines_of(tmp_path / "whole")


def test_a_run_does_not_go_on_with_other_classes(shards, tmp_path):
    config = finetune_config(*shards, epochs=1, epoch_length=2, warmup_iters=0, run_dir=str(tmp_path / "run"))
    train(config, tmp_path / "c.yaml")
    for names, message in [("low\nmiddle\nhigh\n", "another order"), ("low\nhigh\nx\n", r"new: 'x'")]:
        (tmp_path / "classes.txt").write_text(names)
        changes = {"classes": str(tmp_path / "classes.txt"), "run_dir": str(tmp_path / "run"), "epochs": 2}
        with pytest.raises(
            ConfigError, match=f"the run began with other classes.*{message}.*another run_dir"
        ):
            train(finetune_config(*shards, **changes), tmp_path / "c.yaml", resume=True)
    with pytest.raises(ConfigError, match="task 'single', here 'multi'"):
        train(
            finetune_config(*shards, task="multi", run_dir=str(tmp_path / "run")), tmp_path / "c.yaml", True
        )


def note_scores(config: FinetuneConfig, out: Path) -> None:
    """Validate untrained weights on this process's share."""
    join_processes()
    accelerator, processes = new_accelerator(config, out), Processes.of_this_run()
    objective = objective_of(config, out, processes)
    model = accelerator.prepare(objective.new_model())
    epoch_end = EpochEnd(objective, out, accelerator, processes)
    scores = validate(model, objective, epoch_end.batches, accelerator, processes)
    (out / f"{processes.count}_{processes.rank}.json").write_text(json.dumps(scores))
    accelerator.end_training()


@pytest.mark.slow
def test_two_processes_find_what_one_finds(shards, tmp_path):
    config = finetune_config(*shards, task="multi", batch_size=4)
    on_processes(note_scores, config, tmp_path)
    on_processes(note_scores, config, tmp_path, count=1)
    one, first, second = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1_0", "2_0", "2_1")
    )
    assert first == second == pytest.approx(one, rel=1e-5)


def train_in_parts(config: FinetuneConfig, folder: Path) -> None:
    assert train(config, folder / "c.yaml") is None


def test_two_processes_train_together(shards, tmp_path):
    options = {"resampled": False, "epoch_length": None, "epochs": 2, "balanced": True, "mixup": 0.5}
    config = finetune_config(*shards, **options, run_dir=str(tmp_path / "run"))
    on_processes(train_in_parts, config, tmp_path)
    lines = [line for line in lines_of(tmp_path / "run") if "valid_accuracy" in line]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert load_classifier(tmp_path / "run").class_names == ("high", "low", "middle")
