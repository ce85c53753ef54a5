"""`citymote gateway`: run, check or init the gateway service. This process becomes the gateway: signals and exit code are its own."""

import os
import signal
import sys
from pathlib import Path

import click

from tools.gateway_audit import audit
from tools.gateway_command import order
from tools.gateway_store import backup, check_store, restore
from tools.named import NamedPath


@click.group("gateway")
@click.pass_context
def command(context: click.Context) -> None:
    """The gateway service: authenticates frames, keeps them safe, forwards MQTT."""
    before = os.umask(
        0o077
    )  # copies and exports hold households' readings, whoever makes them (as gateway/__main__.py)
    context.call_on_close(lambda: os.umask(before))


def _become(*arguments: str) -> None:
    sys.stdout.flush()
    # Ctrl-C while the interpreter starts would end in its traceback: it waits until gateway/__main__.py can answer it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.execv(sys.executable, [sys.executable, "-m", "gateway", *arguments])


_config = click.option("--config", type=NamedPath(), required=True, help="The gateway's TOML file.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@command.command("run")
@_config
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Instead of log.level.")
@click.option(
    "--accept", is_flag=True, help="The registry lacks most of the nodes that were there before, and is meant so."
)
def run(config: Path, log_level: str | None, accept: bool) -> None:
    """Run until SIGTERM: links and outputs of the configuration, one store, READY to systemd. SIGHUP reads the configuration again."""
    level = ["--log-level", log_level] if log_level else []
    _become("run", "--config", str(config), *level, *(["--accept"] if accept else []))


@command.command("check")
@_config
@click.option("--store", is_flag=True, help="Check the whole store instead, while the gateway may be at work.")
@click.option("--strict", is_flag=True, help="Refuse warnings, too.")
@click.option("--brokers", is_flag=True, help="Connect to the brokers, too, and report what they cannot do.")
@_json
def check(config: Path, store: bool, strict: bool, brokers: bool, as_json: bool) -> None:
    """Check a configuration and its registry without starting anything; all mistakes, each with its line and the fix."""
    if store:
        check_store(config, as_json)
        return
    flags = {"--strict": strict, "--brokers": brokers, "--json": as_json}
    _become("check", "--config", str(config), *(flag for flag, on in flags.items() if on))


@command.command("reload")
@_config
@click.option("--pid", type=int, required=True, help="Process id of the running gateway.")
def reload(config: Path, pid: int) -> None:
    """Have a running gateway read its configuration again, and report how that ended (systemctl reload does it)."""
    _become("reload", "--config", str(config), "--pid", str(pid))


@command.command("init")
@click.option("--dir", "folder", type=NamedPath(), default=Path(), help="Where to write; this folder by default.")
@_json
def init(folder: Path, as_json: bool) -> None:
    """Write a gateway.toml that explains every key, and an empty nodes.toml (mode 0600). Nothing is overwritten."""
    _become("init", "--dir", str(folder), *(["--json"] if as_json else []))


@command.command("key")
@click.option("--number", type=int, default=1, metavar="N", help="How many (default 1), one a line.")
@_json
def key(number: int, as_json: bool) -> None:
    """Make a key for a node: 16 random bytes as 32 hex digits, for nodes.toml and for the node. It is kept nowhere."""
    _become("key", "--number", str(number), *(["--json"] if as_json else []))


_root = click.option("--root", type=NamedPath(), default=Path("/"), help="Root of an image instead of /.")
_dry = click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")


def _more(as_json: bool, dry_run: bool) -> list[str]:
    return (["--json"] if as_json else []) + (["--dry-run"] if dry_run else [])


@command.command("install")
@_root
@click.option("--python", metavar="FILE", help="The interpreter as the unit sees it; this one by default.")
@_dry
@_json
def install(root: Path, python: str | None, dry_run: bool, as_json: bool) -> None:
    """Write the systemd unit, the user, its folders and a first configuration. Again: bring them up to date."""
    _become("install", "--root", str(root), *(["--python", python] if python else []), *_more(as_json, dry_run))


@command.command("uninstall")
@_root
@_dry
@_json
def uninstall(root: Path, dry_run: bool, as_json: bool) -> None:
    """Take away what install wrote; configuration and store stay."""
    _become("uninstall", "--root", str(root), *_more(as_json, dry_run))


def _looking_back(verb: str, text: str) -> None:
    """Add a verb whose options are the gateway's own to explain: `citymote gateway VERB --help` asks it."""

    @command.command(verb, short_help=text, add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def _(arguments: tuple[str, ...]) -> None:
        _become(verb, *arguments)


_looking_back("replay", "Send what is stored of a time range to an MQTT output again.")
_looking_back("republish", "Publish what is current to an MQTT output again, all of it or one node's.")
_looking_back("export", "Write open data of a time range: JSON, CSV, GeoJSON.")
command.add_command(backup)
command.add_command(restore)
command.add_command(audit)
command.add_command(order)
