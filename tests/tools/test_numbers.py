"""What is no number is none, of whichever verb: nan lies beyond no bound."""

from collections.abc import Iterator

import click
import pytest

from tools.cli import cli
from tools.duration import Number


def commands(command: click.Command, ctx: click.Context) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None
            yield from commands(found, click.Context(found, ctx))


def test_every_verb_refuses_nan_and_says_what_to_write() -> None:
    found = [
        p for c in commands(cli, click.Context(cli)) for p in c.params if isinstance(p.type, click.types.FloatParamType)
    ]
    assert len(found) >= 5
    for p in found:
        assert isinstance(p.type, Number), p.name
        for text in ("nan", "-NaN", "inf"):
            with pytest.raises(click.BadParameter):
                p.type.convert(text, p, None)
