"""The console command `hear-dasheng`.

Each package registers its subcommands as entry points (`setup.py`), so this one
needs to know none of them and imports only the one that is called.
"""

from __future__ import annotations

import ast
import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click

from hear_dasheng import __version__
from hear_dasheng.files.failures import Group

ENTRY_POINTS = "hear_dasheng.commands"


class RegisteredCommands(Group):
    """A group whose commands are the registered entry points."""

    def _registered(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands that an installed package registers."""
        return sorted(self._registered())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them, which would take seconds."""
        rows = [(name, _first_line_of_help(entry)) for name, entry in sorted(self._registered().items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; one whose packages are missing says which extra brings them."""
        entry = self._registered().get(cmd_name)
        if entry is None:
            return None
        try:
            return entry.load()
        except ModuleNotFoundError as error:
            help_text = f"({_how_to_install(entry, error)})"

            @click.command(cmd_name, help=help_text, context_settings={"ignore_unknown_options": True})
            @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
            def unavailable(arguments: tuple[str, ...]) -> None:
                raise click.ClickException(f"`hear-dasheng {cmd_name}` {help_text}")

            return unavailable

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a package that it imports on the way and that is missing is an error in a line."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            entry = self._registered().get(ctx.invoked_subcommand or "")
            if entry is None:
                raise
            message = f"`hear-dasheng {entry.name}` {_how_to_install(entry, error)}"
            raise click.ClickException(message) from error


def _how_to_install(entry: EntryPoint, error: ModuleNotFoundError) -> str:
    """Return which package a command lacks, and which extra brings it."""
    package = entry.module.partition(".")[0]
    extra = {"eval_recipes": "evaluation", "pretrain": "pretraining"}.get(package, "all")
    missing = error.name or str(error)
    return f"needs the package {missing}; in the checkout: pip install '.[{extra}]'"


def _first_line_of_help(entry: EntryPoint) -> str:
    """The first line of a command's docstring, read from its source."""
    spec = importlib.util.find_spec(entry.module)
    if spec is None or spec.origin is None:
        return ""
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == entry.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


@click.group(cls=RegisteredCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hear-dasheng")
def main() -> None:
    """Dasheng audio encoders: make, look at, validate and score checkpoints."""


if __name__ == "__main__":
    main(prog_name="hear-dasheng")
