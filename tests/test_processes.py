"""Two processes on a CPU (gloo): the same gradient, every crop once, and nobody waits forever."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from pretraining_data import SMALL_MODEL, settings, write_config, write_shards
from process_cases import on_processes
from safetensors.torch import load_file

from hear_dasheng import load_model
from pretrain.masking import Mask, random_mask
from pretrain.shards import Batch
from pretrain.train import train
from pretrain.training.build import join_processes, new_accelerator
from pretrain.training.config import PretrainConfig
from pretrain.training.masked_modelling import MaskedModelling
from pretrain.training.optimizer_step import OptimizerStep
from pretrain.training.processes import Processes
from pretrain.training.read_config import read_config
from pretrain.training.run_folder import latest_state
from pretrain.training.schedule import Schedule


def config_for(shards: Path, **changes) -> PretrainConfig:
    return read_config(write_config(shards / "config.yaml", settings(shards, **changes)))


def step_of_own_part(config: PretrainConfig, parts: list[list[int]], out: Path) -> None:
    """One step on this process's clips; rank 0 keeps the gradient that the optimizer gets."""
    join_processes()
    accelerator = new_accelerator(config, out)
    processes = Processes.of_this_run()
    objective = MaskedModelling(config)
    bare_model = objective.new_model()
    bare_model.encoder.init_bn.eval()
    model, optimizer = accelerator.prepare(bare_model, torch.optim.SGD(bare_model.parameters()))
    gradients = {}
    optimizer.optimizer.register_step_pre_hook(
        lambda *_: gradients.update((name, p.grad.clone()) for name, p in bare_model.named_parameters())
    )
    schedule = Schedule(1.0, 1, is_constant=True)
    step = OptimizerStep(objective, accelerator, model, bare_model, optimizer, schedule, None, processes)
    own = parts[processes.rank]
    batches = [Batch(clips_of(own), [str(clip) for clip in own], {})] if own else []
    bare_model.encoder.init_bn.train = lambda mode=True: None  # stays in evaluation mode
    step(0, batches, sum(map(len, parts)))
    if accelerator.is_main_process:
        torch.save(gradients, out / "gradients.pt")
    accelerator.end_training()


def clips_of(numbers: list[int]) -> torch.Tensor:
    return torch.stack(
        [0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(n)) for n in numbers]
    )


@pytest.mark.parametrize("parts", [[[0, 1], [2, 3]], [[0, 1, 2], [3]], [[0, 1], []]], ids=str)
def test_the_gradient_is_that_of_one_process_on_the_joined_batch(tmp_path, parts):
    write_shards(tmp_path, 1)
    config = config_for(tmp_path, n_shards=1)
    on_processes(step_of_own_part, config, parts, tmp_path)
    together = torch.load(tmp_path / "gradients.pt", weights_only=True)

    model = MaskedModelling(config).new_model()
    model.encoder.init_bn.eval()
    masks = []
    for rank, part in enumerate(parts):
        generator = OptimizerStep.random_numbers(config.seed, rank, 0)
        masks.append(random_mask(len(part), model.n_tokens(16_000), 0.75, 2, generator) if part else None)
    joined = Mask(*(torch.cat(places) for places in zip(*filter(None, masks), strict=True)))
    model(clips_of([clip for part in parts for clip in part]), joined).mean().backward()
    for name, parameter in model.named_parameters():
        assert (together[name] - parameter.grad).norm() <= 1e-4 * parameter.grad.norm(), name


def train_and_note_keys(config: PretrainConfig, config_path: Path, notes: Path, resume: bool = False) -> None:
    """Train, and write down which crops each step of this process was made on."""
    step = OptimizerStep.__call__
    rank = os.environ["RANK"]

    def noting_step(self, iteration, batches, all_clips):
        report = step(self, iteration, batches, all_clips)
        with (notes / f"rank{rank}.jsonl").open("a") as file:
            line = {"iteration": iteration, "lr": report.lr, "keys": report.keys, "clips": all_clips}
            file.write(json.dumps(line) + "\n")
        return report

    OptimizerStep.__call__ = noting_step
    assert train(config, config_path, resume) is None


def notes_of(folder: Path) -> list[list[dict]]:
    return [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("rank*.jsonl"))
    ]


@pytest.mark.parametrize(("n_shards", "workers"), [(3, 0), (1, 0), (1, 1)])
def test_every_crop_is_seen_once_a_pass_and_no_rank_hangs(tmp_path, n_shards, workers):
    write_shards(tmp_path, n_shards)
    changes = {"resampled": False, "epoch_length": None, "epochs": 2, "num_workers": workers}
    config = config_for(tmp_path, n_shards=n_shards, run_dir=str(tmp_path / "run"), batch_size=2, **changes)
    on_processes(train_and_note_keys, config, tmp_path / "config.yaml", tmp_path)
    ranks = notes_of(tmp_path)
    assert [note["iteration"] for note in ranks[0]] == [note["iteration"] for note in ranks[1]]
    crops = n_shards * 8  # files of 1.0, 2.5, 0.7, 1.2 and 3.1 s give 1, 2, 1, 1 and 3
    for note, other in zip(*ranks, strict=True):
        assert note["clips"] == len(note["keys"]) + len(other["keys"])
        assert note["lr"] == other["lr"]
    seen = Counter(key for rank in ranks for note in rank for key in note["keys"])
    assert len(seen) == crops
    assert set(seen.values()) == {2}
    assert load_model(tmp_path / "run").encoder.config.dim == SMALL_MODEL["embed_dim"]


def rates_of(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["iteration"], line["lr"]) for line in lines if "lr" in line]


def test_the_rate_depends_on_steps_alone_and_a_run_resumes_on_two_processes(tmp_path):
    write_shards(tmp_path)
    path = tmp_path / "config.yaml"
    config_for(tmp_path, epochs=2)
    for run in ("alone", "whole", "parted"):
        (tmp_path / f"notes_{run}").mkdir()
    train(read_config(path, ["--run_dir", str(tmp_path / "alone")]), path)
    on_processes(
        train_and_note_keys,
        read_config(path, ["--run_dir", str(tmp_path / "whole")]),
        path,
        tmp_path / "notes_whole",
    )
    parted = ["--run_dir", str(tmp_path / "parted")]
    on_processes(stop_at, read_config(path, parted), path, 4)
    assert latest_state(tmp_path / "parted").name == "iteration_00000005"
    on_processes(train_and_note_keys, read_config(path, parted), path, tmp_path / "notes_parted", True)
    assert rates_of(tmp_path / "alone") == rates_of(tmp_path / "whole") == rates_of(tmp_path / "parted")
    whole, parted = (notes_of(tmp_path / f"notes_{run}") for run in ("whole", "parted"))
    for notes, rest in zip(whole, parted, strict=True):
        assert notes[5:] == rest
    ours, theirs = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parted"))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def stop_at(config: PretrainConfig, path: Path, iteration: int) -> None:
    """Train; the second process alone is told to stop."""
    step = OptimizerStep.__call__

    def stopping_step(self, at, batches, all_clips):
        if at == iteration - 1 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, at, batches, all_clips)

    OptimizerStep.__call__ = stopping_step
    assert train(config, path) == signal.SIGTERM


LAUNCHERS = {
    "torchrun": ["torchrun", "--nproc_per_node", "2", "-m", "pretrain.train"],
    "accelerate": ["accelerate", "launch", "--cpu", "--num_processes", "1", "-m", "pretrain.train"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launchers_work_as_the_readme_says(tmp_path, launcher):
    write_shards(tmp_path)
    config_for(tmp_path, epochs=1, epoch_length=2, warmup_iters=0)
    program, *arguments = LAUNCHERS[launcher]
    command = [str(Path(sys.executable).parent / program), *arguments, str(tmp_path / "config.yaml")]
    result = subprocess.run(
        [*command, "--run_dir", str(tmp_path / "run")], capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    assert f"{2 if launcher == 'torchrun' else 1} process(es) on cpu" in result.stderr
    assert load_model(tmp_path / "run").encoder.config.depth == 2
