"""The demo: synthesised sound -> a pretrained model; tasks -> embeddings, scores -> one report."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import click

from eval_recipes import synthetic_tasks
from eval_recipes.official import require_tools, run_tool
from eval_recipes.results import primary_score
from hear_dasheng.files.failures import Command

TASKS = (
    synthetic_tasks.scene_multiclass,
    synthetic_tasks.scene_multilabel,
    synthetic_tasks.event_detection,
)
QUESTIONS = {
    "demo_which_sound-v1-small": "Which of six sounds is it? (accuracy; guessing: 0.17)",
    "demo_sounds_in_mix-v1-small": "Which sounds are in the mix? (mean average precision; guessing: 0.2)",
    "demo_events-v1-small": "When does which sound begin? (F-measure within 200 ms; guessing: 0)",
}
PRETRAINING_CLIPS = 1000
TRAINING_THREADS = {"OMP_NUM_THREADS": "2"}
"""As many everywhere: other numbers of threads add up differently, and a short training shows it."""
VALIDATION_SHARD, TRAINING_SHARDS = "audio_0000000.tar", "audio_{0000001..0000004}.tar"
"""The list of clips is shuffled before it is cut into shards of 200."""

CAVEAT = f"""
Higher is better. Both Dasheng encoders are tiny. The weights of the untrained one are random numbers,
so that its scores say what the architecture alone gives. The pretrained one began with such numbers and
has listened for a few minutes, without any label, to {PRETRAINING_CLIPS} clips of such sounds and others;
the released models have listened to 272 000 hours. Listening helps where a sound is told by its course over
tenths of seconds; where an instant tells enough, as in the third task, random weights are hard to beat, and
the table above says by how much it did either here.
The protocol is heareval's in full, but the tasks are toys: nothing here can be compared with published
HEAR scores. For a real model and real tasks, see README.md. HEAR's own kit scores the same embeddings with
`hear-dasheng heareval predictions --redo {{folder}}`."""


@dataclass(frozen=True)
class Contestant:
    """A HEAR module to be scored, with its checkpoint in the demo's folder, if it has one."""

    title: str
    module: str
    checkpoint: str = ""

    @property
    def name(self) -> str:
        """Of its folder of embeddings."""
        return self.checkpoint or self.module.rpartition(".")[2]


UNTRAINED, PRETRAINED = "untrained_tiny", "pretrained_tiny"
CONTESTANTS = (
    Contestant("log-mel statistics", "eval_recipes.baselines.log_mel"),
    Contestant("tiny Dasheng, UNTRAINED", "hear_dasheng", UNTRAINED),
    Contestant("tiny Dasheng, pretrained", "hear_dasheng", PRETRAINED),
)


def _show(words: list[str]) -> None:
    click.secho(f"\n$ {shlex.join(words)}", bold=True)


def _run(
    arguments: list[str],
    module: str = "hear_dasheng.cli",
    name: str = "hear-dasheng",
    settings: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Show a command, with what is set in its environment, as a user would type it, and run it."""
    _show([*(f"{key}={value}" for key, value in settings.items()), name, *arguments])
    code = subprocess.call([sys.executable, "-m", module, *arguments], env={**os.environ, **settings})
    if code:
        raise click.ClickException(f"that command ended with exit code {code}; see above")


def _pretrain(out: Path) -> None:
    """Synthesised sound -> shards -> a pretrained checkpoint; goes on where it was stopped."""
    table, shards = out / "audio.tsv", out / "shards"
    if not table.exists():
        click.echo(f"Synthesising {PRETRAINING_CLIPS} clips to pretrain on")
        synthetic_tasks.unlabelled_audio(out / "audio", PRETRAINING_CLIPS)
    packing = [str(table), str(shards), "--size_per_file", "200", "--n_workers", "2", "--format", "flac"]
    _run(packing, "pretrain.wavlist_to_tar", "wavlist_to_tar")
    data = ["--train_data", f"{shards}/{TRAINING_SHARDS}", "--cv_data", f"{shards}/{VALIDATION_SHARD}"]
    training = ["pretrain", "demo", *data, "--run_dir", str(out / PRETRAINED), "--resume"]
    _run(training, settings=TRAINING_THREADS)


def _validate(contestant: Contestant, model: list[str], log: Path) -> None:
    arguments = [contestant.module, *model]
    _show(["hear-dasheng", "validate", *arguments])
    log.unlink(missing_ok=True)
    if run_tool(["validate", "{}", *arguments], log=log):
        raise click.ClickException(f"the validator found a fault; read {log}")
    lines = log.read_text().splitlines()
    click.echo("\n".join(lines[-2:]) + f"\n(all it said is in {log})")


def _score(contestant: Contestant, out: Path) -> None:
    """Embed and score one contestant; have the official validator look at a checkpoint that was trained."""
    model = ["--model", str(out / contestant.checkpoint)] if contestant.checkpoint else []
    embeddings = out / "embeddings" / contestant.name
    if contestant.checkpoint == PRETRAINED:
        _validate(contestant, model, out / "validate.log")
    folders = ["--tasks-dir", str(out / "tasks"), "--out", str(embeddings)]
    _run(["embed", contestant.module, *model, *folders])
    _run(["score", str(embeddings / contestant.module)])


def _report(out: Path) -> None:
    """One page with all scores, tables and pictures beside it."""
    folders = [str(out / "embeddings" / one.name / one.module) for one in CONTESTANTS]
    labels = [word for one in CONTESTANTS for word in ("--label", one.title)]
    _run(["report", *folders, *labels, "--out", str(out / "report")])


def results_table(out: Path) -> str:
    """A question a block: the task, what is measured, each contestant's score."""
    blocks = []
    for task, question in QUESTIONS.items():
        lines = [question]
        for contestant in CONTESTANTS:
            score = primary_score(out / "embeddings" / contestant.name / contestant.module / task)
            spread = "" if score.std is None else f" ± {score.std:.2f} over folds"
            lines.append(f"    {contestant.title:<26} {score.mean:.2f}{spread}")
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


@click.command(cls=Command)
@click.option("--out", default="demo", show_default=True, type=click.Path(file_okay=False, path_type=Path))
def demo(out: Path) -> None:
    """Pretrain a tiny model, and score it beside two others on three small HEAR tasks.

    All sound is synthesised, all scores follow the official kit's protocol. Goes on where
    an earlier run in the same folder stopped.
    """
    require_tools()
    out.mkdir(parents=True, exist_ok=True)
    for task, make in zip(QUESTIONS, TASKS, strict=True):
        if not (out / "tasks" / task / "task_metadata.json").exists():
            click.echo(f"Synthesising {make(out / 'tasks')}")
    if not (out / UNTRAINED).exists():
        _run(["init", "tiny", str(out / UNTRAINED)])
    _pretrain(out)
    for contestant in CONTESTANTS:
        _score(contestant, out)
    _report(out)
    click.secho("\nScores after HEAR's protocol, on tasks of synthesised sound\n", bold=True)
    click.echo(results_table(out))
    click.echo(CAVEAT.format(folder=out / "embeddings" / CONTESTANTS[-1].name / CONTESTANTS[-1].module))
    click.echo(f"\nThe same with charts, to open in a browser: {out / 'report' / 'index.html'}")
