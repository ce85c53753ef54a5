"""`citymote demo`: the main job from end to end. What `make demo` runs."""

import sys
import threading
import time
from contextlib import nullcontext, suppress
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from host_sim.runner import Broker, run
from tools.duration import Number
from tools.report import document
from tools.sim import REFUSALS, complaints, refuse, short, verdict
from tools.table import Board

ROOT = "city"


def _clock(virtual_s: float) -> str:
    return f"{int(virtual_s // 3600):02d}:{int(virtual_s // 60) % 60:02d}"


class Show:
    """Follows a run: the table on a terminal, a line every few virtual hours elsewhere. Called from the run's threads."""

    def __init__(self, console: Console) -> None:
        self._console, self._board, self._lock = console, Board(ROOT), threading.Lock()
        self._news: list[str] = []
        self._state: dict[str, Any] = {"virtual_s": 0.0, "total_s": 1.0, "frames": 0, "sampled": 0}
        self._told = 0

    def event(self, e: dict[str, Any]) -> None:
        """Take one event of the run."""
        with self._lock:
            if e["event"] == "message":
                self._board.take(e["topic"], e["payload"])
            elif e["event"] in ("power_cut", "drain", "repl"):
                words = {
                    "power_cut": "power cut",
                    "drain": "end of the day: waiting until every outbox is empty",
                    "repl": "AT THE REPL",
                }
                line = f"{_clock(e.get('t', 0) / 1e6)}  {e.get('node', '')} {words[e['event']]}".replace("  ", " ")
                self._news = [*self._news, line][-4:]
                if not self._console.is_terminal:
                    self._console.print(line, highlight=False)

    def progress(self, p: dict[str, Any]) -> None:
        """Take the state of the run; off a terminal, tell it every three virtual hours."""
        with self._lock:
            self._state = p
            if not self._console.is_terminal and p["virtual_s"] // 10800 > self._told:
                self._told = int(p["virtual_s"] // 10800)
                self._console.print(self._head(), highlight=False)

    def _head(self) -> str:
        s = self._state
        return (
            f"{_clock(s['virtual_s'])} of {_clock(s['total_s'])} virtual hours, {s['sampled']} readings sampled, "
            f"{s['frames']} frames on the air, {self._board.messages} MQTT messages"
        )

    def final_table(self) -> object:
        """The table as it stands."""
        with self._lock:
            return self._board.render("What the city's broker holds")

    def __rich__(self) -> Group:
        with self._lock:
            return Group(
                self._board.render(f"citymote demo   {self._head()}"), Text("\n".join(self._news), style="yellow")
            )


@click.command("demo")
@click.option("--hours", type=Number(0.1, 240), help="Virtual hours (default: the scenario's 24).")
@click.option("--nodes", type=click.IntRange(1, 500), help="Number of nodes (default: the scenario's).")
@click.option("--seed", type=click.IntRange(0, 2**31), help="Another day, another seed.")
@click.option("--stay", is_flag=True, help="Keep the broker with its retained state up until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the summary.")
def command(hours: float | None, nodes: int | None, seed: int | None, stay: bool, as_json: bool) -> None:
    """A simulated district through 24 virtual hours of real data: nodes on the real VM, gateway, MQTT.

    Exit code 0 only if every reading arrived once. Nothing leaves this machine.
    """
    console = Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, width=140)
    show = Show(console)
    started = time.monotonic()
    try:
        with Broker() as broker:
            address = f"{broker.host}:{broker.port}"
            console.print(
                f"broker on {address}; look on with: mosquitto_sub -h {broker.host} -p {broker.port} -t '{ROOT}/#' -v",
                highlight=False,
            )
            live = (
                Live(show, console=console, refresh_per_second=4, transient=True)
                if console.is_terminal
                else nullcontext()
            )
            with live:
                result = run(
                    "district",
                    hours=hours,
                    nodes=nodes,
                    seed=seed,
                    broker=broker,
                    on_event=show.event,
                    progress=show.progress,
                )
            console.print(show.final_table())
            if as_json:
                document(result.as_dict() | {"demo_wall_s": round(time.monotonic() - started, 1)})
            else:
                click.echo(short(result))
            code = verdict(result)
            click.echo(
                "nothing was lost" if code == 0 else "NOT GOOD\n" + "\n".join(complaints(result)),
                err=True,
            )
            if stay:
                console.print(f"broker stays on {address}; Ctrl-C ends it", highlight=False)
                with suppress(KeyboardInterrupt):  # how it is meant to end
                    threading.Event().wait()
    except tuple(REFUSALS) as e:
        refuse(e, as_json=as_json)
        return
    sys.exit(code)
