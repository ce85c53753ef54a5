"""`citymote gateway`: run or check the gateway service (this process becomes the gateway: signals and exit code are its own), send commands, read the audit log."""

import os
import sys
from pathlib import Path

import click

from tools.gateway_audit import audit
from tools.gateway_command import order


@click.group("gateway")
def command() -> None:
    """The gateway service: authenticates frames, keeps them safe, forwards MQTT."""


def _become(verb: str, config: Path | None, *more: str) -> None:
    arguments = [sys.executable, "-m", "gateway", verb, *(["--config", str(config)] if config else []), *more]
    sys.stdout.flush()
    os.execv(sys.executable, arguments)


@command.command("run")
@click.option("--config", type=click.Path(path_type=Path), required=True, help="The gateway's TOML file.")
def run(config: Path) -> None:
    """Run until SIGTERM: links and outputs of the configuration, one store, READY to systemd."""
    _become("run", config)


@command.command("check")
@click.option("--config", type=click.Path(path_type=Path), required=True, help="The gateway's TOML file.")
def check(config: Path) -> None:
    """Check a configuration and its registry without starting anything."""
    _become("check", config)


def _looking_back(verb: str, text: str) -> None:
    """Add a verb whose options are the gateway's own to explain: `citymote gateway VERB --help` asks it."""

    @command.command(verb, short_help=text, add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def _(arguments: tuple[str, ...]) -> None:
        _become(verb, None, *arguments)


_looking_back("replay", "Send what is stored of a time range to an MQTT output again.")
_looking_back("export", "Write open data of a time range: JSON, CSV, GeoJSON.")
command.add_command(audit)
command.add_command(order)
