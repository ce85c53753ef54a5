"""`citymote sim`: play a scenario with simulated nodes on the real VM, and report what arrived on MQTT."""

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gateway.outcome import say
from host_sim.boards import BoardError
from host_sim.romfs import ImageError
from host_sim.runner import (
    BrokerError,
    BrokerUnreachable,
    CompileError,
    FleetError,
    GatewayError,
    Result,
    RootTaken,
    ScenarioError,
    known,
    load,
    run,
)
from tools import torture
from tools.duration import Number
from tools.report import FAILED, REFUSED, USAGE, document, fail, split_hint

REFUSALS: dict[type[Exception], tuple[str, int]] = {
    ScenarioError: ("bad_scenario", USAGE),
    BrokerUnreachable: ("no_broker", FAILED),
    BrokerError: ("no_broker", FAILED),
    RootTaken: ("root_taken", REFUSED),
    GatewayError: ("gateway", FAILED),
    FleetError: ("simulator", FAILED),
    CompileError: ("firmware", FAILED),
    ImageError: ("image", FAILED),
    BoardError: ("bad_board", USAGE),
}


def refuse(e: Exception, *, as_json: bool) -> None:
    """Report a failure of the runner by its name and leave; anything unforeseen is raised again."""
    for kind, (name, code) in REFUSALS.items():
        if isinstance(e, kind):
            text, hint = split_hint(str(e))
            fail(name, text, hint=hint, as_json=as_json, code=code)
    raise e


def short(result: Result) -> str:
    """The result in words, a few lines."""
    return (
        f"{result.nodes} nodes, {result.virtual_s / 3600:g} virtual hours in {result.wall_s:.1f} s of wall time\n"
        f"readings   sampled {result.sampled}  delivered {result.delivered}  lost {result.lost}  duplicates {result.duplicates}"
        + (f"  gone with the power {result.with_power}" if result.with_power else "")
        + "\n"
        f"frames     {result.frames} on LoRa ({result.frames_down} down), {result.frames_wifi} over WiFi, "
        f"{result.collisions} collided, {result.lossy} lost to the lossy stretch\n"
        f"air        {result.bytes_on_air} bytes, {result.bytes_per_reading:.2f} bytes per reading over LoRa, {result.airtime_ms / 1000:.1f} s on air\n"
        f"nodes      {result.boots} boots, {result.power_cuts} power cuts, {result.alarms} alarms raised, "
        f"{sum(result.resets.values())} resets, {sum(bool(n['shed']) for n in result.per_node.values())} with sensors left out\n"
        f"flash      at most {result.peak_outbox} frames waiting, {result.erases_per_day:.0f} erases a day (budget {result.wear_budget:.0f})\n"
        + (f"injected   {', '.join(f'{k} {n}' for k, n in result.injected.items())}\n" if result.injected else "")
        + f"hash       {result.result_hash}"
    )


def verdict(result: Result) -> int:
    """0 only when every reading arrived once, with the value the node had, no rule was broken, no flash wears out, and what the
    scenario expects was seen."""
    r = result
    wrong = (
        not all(r.injected.values())
        or r.lost
        or r.duplicates
        or r.unaccounted
        or r.at_repl
        or r.duty_violations
        or r.wear_exceeded
        or r.unmet
        or r.unsampled
        or r.misdated
    )
    return 1 if wrong or not r.sampled else 0


def complaints(result: Result) -> list[str]:
    """What verdict() holds against a run, a line each."""
    return (
        [f"lost: {x}" for x in result.lost_examples]
        + [f"duplicates: {result.duplicates} readings came twice"] * bool(result.duplicates)
        + [f"unaccounted: {result.unaccounted} readings no node persisted"] * bool(result.unaccounted)
        + [f"at the REPL: {x}" for x in result.at_repl]
        + [f"duty cycle: {x}" for x in result.duty_violations[:5]]
        + [f"worn: {n} erases more than {result.wear_budget:.0f} blocks a day" for n in result.wear_exceeded]
        + [f"unmet: {x}" for x in result.unmet]
        + [f"unsampled: {x}" for x in result.unsampled]
        + [f"misdated: {result.misdated} rows of the future"] * bool(result.misdated)
        + [f"injected: no {kind} was met" for kind, n in result.injected.items() if not n]
    )


@click.group("sim")
def command() -> None:
    """Play scenarios: nodes on the real MicroPython VM, simulated air, the real gateway, a real broker."""


command.add_command(torture.command)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_scenarios(as_json: bool) -> None:
    """Name the shipped scenarios. Exit code 1 when one of them cannot be read; the others are listed all the same."""
    found: dict[str, str] = {}
    broken: dict[str, str] = {}
    for name in known():
        try:
            found[name] = load(name).head.description
        except tuple(REFUSALS) as e:
            broken[name] = str(e)
    if as_json:
        document({"scenarios": found, "broken": broken})
    else:
        for name, description in found.items():
            click.echo(f"{name:12} {description}")
    for name, error in broken.items():
        say(f"{name}: {error}", "mend its file in host_sim/scenarios")
    if broken:
        raise SystemExit(FAILED)


@command.command("run")
@click.argument("scenario")
@click.option("--hours", type=Number(0.1, 24 * 400), help="Virtual hours instead of the scenario's.")
@click.option("--nodes", type=click.IntRange(1, 2000), help="Number of nodes, in the scenario's proportions.")
@click.option("--seed", type=click.IntRange(0, 2**31), help="Same seed, same result hash.")
@click.option("--broker", metavar="HOST:PORT", help="Play on a running MQTT broker instead of the embedded one.")
@click.option(
    "--root",
    metavar="NAME",
    help="With --broker: the topics' root there, sim-SCENARIO by default. What the run retains is removed at its end.",
)
@click.option(
    "--yes",
    "anyway",
    is_flag=True,
    help="With --root: also below a root where a gateway or something else has its topics.",
)
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Folder that receives consoles, logs and the gateway's store."
)
@click.option(
    "--driver",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder with micropython-lib's lora/, which the nodes then send with, on a model of the SX1262's commands.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def run_scenario(
    scenario: str,
    hours: float | None,
    nodes: int | None,
    seed: int | None,
    broker: str | None,
    root: str | None,
    anyway: bool,
    keep: Path | None,
    driver: Path | None,
    as_json: bool,
) -> None:
    """Play SCENARIO (a shipped name, see `citymote sim list`, or a .toml file). Exit code 0 only if nothing was lost."""
    if broker is None and (root is not None or anyway):
        fail(
            "usage",
            "--root and --yes are for a broker of your own",
            hint="add --broker HOST:PORT",
            as_json=as_json,
            code=USAGE,
        )
    if anyway and root is None:
        fail("usage", "--yes is for a root that you name", hint="add --root NAME", as_json=as_json, code=USAGE)
    console = Console(stderr=True, highlight=False)

    def on_event(e: dict[str, Any]) -> None:
        if broker is not None and e["event"] == "ready":
            console.print(f"publishes below {e['root']}/v1/ at {broker}; what it retains there is removed at the end")
        elif e["event"] == "left":
            console.print(
                f"warning: retained topics stay at {broker}: {e['error']}\nnext: run it again, which removes them"
            )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[tail]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"sim {scenario}", total=None, tail="")

        def progress(p: dict[str, Any]) -> None:
            tail = f"{p['frames']} frames, {p['sampled']} readings"
            bar.update(task, total=p["total_s"], completed=p["virtual_s"], tail=tail)

        try:
            result = run(
                scenario, hours=hours, nodes=nodes, seed=seed, broker=broker, keep=keep, progress=progress,
                on_event=on_event, root=root, anyway=anyway, driver=driver,
            )  # fmt: skip
        except tuple(REFUSALS) as e:
            bar.stop()
            refuse(e, as_json=as_json)
            return
    if as_json:
        document(result.as_dict())
    else:
        click.echo(short(result))
    for line in complaints(result):
        print(line, file=sys.stderr)
    sys.exit(verdict(result))
