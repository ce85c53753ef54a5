"""`citymote bench outage`: a district's broker is away for days; how much is kept, how fast it drains, alarms first, the newest retained."""

import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from host_sim.gateway_process import GatewayError
from host_sim.mosquitto import MosquittoError
from host_sim.outage import OutageError, outage
from tools.duration import Number
from tools.report import FAILED, conclude, fail, split_hint


def short(d: dict[str, Any]) -> str:
    """The result in words, a few lines."""
    return (
        f"{d['nodes']} nodes, broker away for {d['days']:g} days: {d['frames']} frames, {d['alarms']} of them alarms; {d['wall_s']:.0f} s of wall time\n"
        f"spool      {d['spool_events']} events, {d['spool_mb']:.1f} MB; the whole store {d['store_mb']:.1f} MB\n"
        f"rates      {d['taken_per_s']:.0f} frames/s taken meanwhile, {d['drain_per_s']:.0f} events/s drained ({d['drain_s']:.1f} s)\n"
        f"alarms     all there after {d['alarms_done_s']:.2f} s, {d['bulk_before_last_alarm']} reports came before the last of them\n"
        f"arrived    lost {d['lost']}, came again {d['duplicates']}\n"
        f"retained   {d['retained']} topics; {d['wrong_values']} values and {d['wrong_alerts']} alerts wrong, {d['stepped_back']} steps back"
    )


@click.command("outage")
@click.option("--nodes", type=click.IntRange(1, 20_000), default=1000, show_default=True, help="Nodes of the district.")
@click.option("--days", type=Number(0.1, 60), default=3.0, show_default=True, help="Virtual days without a broker.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Same seed, same frames.")
@click.option("--keep", type=click.Path(path_type=Path), help="A new folder that keeps configuration, log and store.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(nodes: int, days: float, seed: int, keep: Path | None, as_json: bool) -> None:
    """Play a broker outage in virtual time: the real gateway, a real mosquitto.

    Exit code 0 only when nothing is lost, alarms come before the backlog, and every retained value is the newest.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="citymote-outage-", ignore_cleanup_errors=True) as tmp,
        Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar,
    ):
        task = bar.add_task("starting", total=None)
        folder = keep or Path(tmp)
        try:
            folder.mkdir(parents=True, exist_ok=keep is None)
            tally = outage(
                folder, nodes, days, seed,
                lambda p: bar.update(task, description=p["phase"], completed=p["done"], total=p["total"]),
            )  # fmt: skip
        except FileExistsError:
            bar.stop()
            fail("exists", f"{folder} exists", hint="name a new folder", as_json=as_json, code=FAILED)
        except (OutageError, MosquittoError, GatewayError) as e:
            bar.stop()
            text, hint = split_hint(str(e))
            fail("outage", text, hint=hint, as_json=as_json, code=FAILED)
    found = tally.as_dict()
    conclude(found, short(found), as_json=as_json)
