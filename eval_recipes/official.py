"""HEAR's official tools as commands: running one in a process of its own, and `validate`.

The tools run unmodified (`official_process`), with their own arguments passed
through. `official_kit` builds heareval's two commands on this.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from eval_recipes.model_arguments import cannot_load, parse_options
from eval_recipes.official_pins import INSTALL_COMMAND, TOOLS
from hear_dasheng.files.failures import Command


def require_tools() -> None:
    """Refuse to go on without the pinned tools, saying how to get them."""
    for requirement in TOOLS:
        name, pinned = requirement.split("==")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found != pinned:
            raise click.ClickException(
                f"{name} {pinned} is needed and is {found}. In the checkout: `pip install '.[evaluation]'`, "
                f"then `{INSTALL_COMMAND}` (their own requirements are unsatisfiable today, so --no-deps)"
            )


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C while a tool runs, so that both clean up alike."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_tool(arguments: list[str], *, cwd: Path | None = None, log: Path | None = None) -> int:
    """Run `official_process` with arguments and return its exit code.

    The tool gets a session of its own: Ctrl-C reaches only us, and we kill it
    outright, because Lightning answers Ctrl-C by finishing early as if all was well.

    Args:
        arguments: the tool's name and its arguments.
        cwd: where it runs; modules in the caller's working directory stay importable.
        log: a file for its output; None shows it.
    """
    environment = _environment()
    command = [sys.executable, "-m", "eval_recipes.official_process", *arguments]
    output = log.open("ab") if log else None
    try:
        with sigterm_interrupts():
            child = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                start_new_session=True,
                stdout=output,
                stderr=subprocess.STDOUT if log else None,
            )
            try:
                return child.wait()
            except BaseException:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                raise
    finally:
        if output:
            output.close()


def _environment() -> dict[str, str]:
    """Ours, with modules in the working directory importable by the tool."""
    paths = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(paths))


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@click.argument("module")
@click.option("--model-options", default="{}", help="JSON options for load_model (ours; the tool has none).")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def validate(module: str, model_options: str, arguments: tuple[str, ...]) -> None:
    """Run hear-validator on MODULE: --model CKPT, --device DEVICE.

    Afterwards the embeddings are also checked to be finite and repeatable, which
    the validator does not do.
    """
    require_tools()
    options = json.dumps(parse_options(model_options))
    code = run_tool(["validate", options, module, *arguments])
    if code:
        raise click.exceptions.Exit(code)


def describe_module(module: str, model: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Load a HEAR module in a process of its own; return its sample rate, mode, and whether it has weights.

    Raises:
        click.ClickException: it cannot be loaded, or is no HEAR module.
    """
    with tempfile.TemporaryDirectory(prefix="heareval-") as folder:
        answer = Path(folder, "description.json")  # a module may print what it likes
        command = [sys.executable, "-m", "eval_recipes.official_process", "describe"]
        command += [module, model or "", json.dumps(options), str(answer)]
        result = subprocess.run(command, env=_environment(), capture_output=True, text=True, errors="replace")
        if answer.is_file():
            described = json.loads(answer.read_text())
        else:
            lines = result.stderr.strip().splitlines() or [f"its process ended with code {result.returncode}"]
            described = {"problem": lines[-1]}
    if problem := described.get("problem"):
        raise click.ClickException(cannot_load(module, model, problem))
    return described
