"""Every numeric option of every command is finite and bounded."""

import math
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from hear_dasheng.cli import main
from hear_dasheng.files.number_options import FiniteRange, WholeRange
from pretrain.wavlist_to_tar import main as wavlist_to_tar


def commands(command: click.Command, *name: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield a command, or all commands of a group, with the words that call them."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        yield from commands(command.get_command(context, word), *name, word)


def is_number(option: click.Parameter) -> bool:
    kinds = (click.types.IntParamType, click.types.FloatParamType)
    return isinstance(option, click.Option) and isinstance(option.type, kinds)


ALL = [*commands(main), *commands(wavlist_to_tar, "wavlist_to_tar")]
NUMBERS = [
    pytest.param(command, option, id=" ".join((*name, option.opts[-1])))
    for name, command in ALL
    for option in command.params
    if is_number(option)
]


def test_all_commands_are_audited():
    assert {"embed", "knn", "tag", "pretrain", "tasks fetch", "wavlist_to_tar"} <= {
        " ".join(n) for n, _ in ALL
    }
    assert len(NUMBERS) >= 20


@pytest.mark.parametrize(("command", "option"), NUMBERS)
def test_numbers_are_bounded(command, option):
    assert isinstance(option.type, FiniteRange | WholeRange)
    assert math.isfinite(option.type.min)
    assert math.isfinite(option.type.max)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "x", "", "9" * 30, "-" + "9" * 30])
@pytest.mark.parametrize(("command", "option"), NUMBERS)
def test_values_out_of_bounds_are_refused_with_the_option_and_the_value(command, option, value):
    result = CliRunner().invoke(command, [f"{option.opts[-1]}={value}", *["."] * len(command.params)])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert option.opts[-1] in line
    assert value in line or "inf" in line or f"{float(value):g}" in line
