"""The demo: synthesised tasks -> official validation, embeddings, scores -> one table."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from eval_recipes import synthetic_tasks
from eval_recipes.official import require_tools, run_tool
from eval_recipes.results import primary_score

TASKS = (
    synthetic_tasks.scene_multiclass,
    synthetic_tasks.scene_multilabel,
    synthetic_tasks.event_detection,
)
QUESTIONS = {
    "demo_which_sound-v1-small": "Which of six sounds is it? (accuracy; guessing: 0.17)",
    "demo_sounds_in_mix-v1-small": "Which sounds are in the mix? (mean average precision; guessing: 0.4)",
    "demo_events-v1-small": "When does which sound begin? (F-measure within 200 ms; guessing: 0)",
}
GRID_POINTS = 2
"""heareval's default is 8; two make the demo short and its scores a little worse."""

CAVEAT = f"""
Higher is better. The Dasheng encoder here is tiny and was never trained: its weights are
random numbers, so its scores say what its architecture alone gives, not what Dasheng can do.
The probes were searched over {GRID_POINTS} grid points instead of heareval's 8, and the tasks are
toys: nothing here can be compared with published HEAR scores. For a real model and real
tasks, see README.md."""


@dataclass(frozen=True)
class Contestant:
    """A HEAR module to be scored; `size` is that of the untrained checkpoint it gets."""

    title: str
    module: str
    size: str | None = None


CONTESTANTS = (
    Contestant("log-mel statistics", "eval_recipes.baselines.log_mel"),
    Contestant("tiny Dasheng, UNTRAINED", "hear_dasheng", "tiny"),
)


def _run(arguments: list[str]) -> None:
    """Show a command as a user would type it, and run it."""
    click.secho(f"\n$ hear-dasheng {' '.join(arguments)}", bold=True)
    code = subprocess.call([sys.executable, "-m", "hear_dasheng.cli", *arguments])
    if code:
        raise click.ClickException(f"that command ended with exit code {code}; see above")


def _validate(module: str, model: str, log: Path) -> None:
    arguments = [module, *(["--model", model] if model else [])]
    click.secho(f"\n$ hear-dasheng validate {' '.join(arguments)}", bold=True)
    log.unlink(missing_ok=True)
    if run_tool(["validate", "{}", *arguments], log=log):
        raise click.ClickException(f"the validator found a fault; read {log}")
    lines = log.read_text().splitlines()
    click.echo("\n".join(lines[-2:]) + f"\n(all it said is in {log})")


def results_table(out: Path) -> str:
    """A question a block: the task, what is measured, each contestant's score."""
    blocks = []
    for task, question in QUESTIONS.items():
        lines = [question]
        for contestant in CONTESTANTS:
            score = primary_score(out / "embeddings" / contestant.module / task)
            spread = "" if score.std is None else f" ± {score.std:.2f} over folds"
            lines.append(f"    {contestant.title:<26} {score.mean:.2f}{spread}")
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


@click.command()
@click.option("--out", default="demo", show_default=True, type=click.Path(file_okay=False, path_type=Path))
def demo(out: Path) -> None:
    """Synthesise three small HEAR tasks and score two modules with the official kit.

    Goes on where an earlier run in the same folder stopped.
    """
    require_tools()
    out.mkdir(parents=True, exist_ok=True)
    tasks, embeddings = out / "tasks", out / "embeddings"
    for task, make in zip(QUESTIONS, TASKS, strict=True):
        if not (tasks / task / "task_metadata.json").exists():
            click.echo(f"Synthesising {make(tasks)}")
    for contestant in CONTESTANTS:
        model = ""
        if contestant.size:
            model = str(out / f"untrained_{contestant.size}")
            if not Path(model).exists():
                _run(["init", contestant.size, model])
        _validate(contestant.module, model, out / f"validate.{contestant.module}.log")
        with_model = ["--model", model] if model else []
        _run(
            [
                "heareval",
                "embeddings",
                contestant.module,
                *with_model,
                "--tasks-dir",
                str(tasks),
                "--embeddings-dir",
                str(embeddings),
                "--quiet",
            ]
        )
        _run(
            [
                "heareval",
                "predictions",
                str(embeddings / contestant.module),
                "--grid-points",
                str(GRID_POINTS),
                "--quiet",
            ]
        )
    click.secho("\nScores by HEAR's official kit, on tasks of synthesised sound\n", bold=True)
    click.echo(results_table(out))
    click.echo(CAVEAT)
