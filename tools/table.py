"""What arrives on MQTT, as a live table: one line a node, made only from what any backend may read."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tools.report import plain

# What one looks at first; the rest of a node's quantities, and its health, are on MQTT too.
_SHOWN = (
    "pm10",
    "pm25",
    "laeq",
    "lafmax",
    "water_volume",
    "water_flow",
    "occupied",
    "fill_level",
    "distance",
    "temperature",
    "humidity",
)
_HIDDEN = ("rssi", "snr")


@dataclass
class Line:
    """One node as MQTT shows it. delay_s: seconds between the newest sample and its arrival at the gateway (virtual time)."""

    profile: str = "?"
    state: str = ""
    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    alerts: dict[str, str] = field(default_factory=dict)
    time: str = ""
    delay_s: float | None = None
    rssi: int | None = None
    packs: int = 0


class Board:
    """Keeps a Line per node from messages below `root`; `render` draws them."""

    def __init__(self, root: str = "city") -> None:
        self._root = root
        self.lines: dict[str, Line] = {}
        self.messages = self.unread = 0

    def take(self, topic: str, payload: bytes) -> None:
        """Enter one message; topics that the table does not show, and payloads that are not what they should be, are counted only."""
        self.messages += 1
        try:
            self._take(topic, payload)
        except (ValueError, TypeError, AttributeError):  # whoever publishes there is not the gateway
            self.unread += 1

    def _take(self, topic: str, payload: bytes) -> None:
        parts = topic.split("/")
        if len(parts) < 5 or parts[:3] != [self._root, "v1", "node"]:
            return
        line = self.lines.setdefault(parts[3], Line())
        match parts[4]:
            case "meta":
                line.profile = str(json.loads(payload).get("profile", "?"))
            case "state":
                line.state = payload.decode()
            case "senml":
                line.packs += 1
            case "alert" if payload:
                alert = json.loads(payload)
                line.alerts[parts[5]] = _alert(alert)
            case "alert":
                line.alerts.pop(parts[5], None)
            case "q" if payload:
                self._value(line, parts[5], json.loads(payload))

    @staticmethod
    def _value(line: Line, quantity: str, value: dict[str, Any]) -> None:
        if quantity == "rssi":
            line.rssi = int(value["v"])
        if quantity in _HIDDEN:
            return
        line.values[quantity] = value.get("v"), value.get("u", "")
        taken, received = value.get("t"), value.get("rx")
        if quantity in _SHOWN and taken and received:
            line.time = max(line.time, taken)
            line.delay_s = (datetime.fromisoformat(received) - datetime.fromisoformat(taken)).total_seconds()

    def render(self, title: str) -> Table:
        """Draw the table as it stands."""
        table = Table(title=Text(title), title_justify="left", box=box.SIMPLE, padding=(0, 1))
        for name in ("node", "profile", "last values", "alarms", "at", "delay", "RSSI"):
            table.add_column(
                name, justify="right" if name in ("delay", "RSSI") else "left", no_wrap=name != "last values"
            )
        for node in sorted(self.lines):
            line = self.lines[node]
            cells = (
                node,
                line.profile,
                ", ".join(_show(line.values)),
                ", ".join(line.alerts.values()),
                line.time[11:16],
                "" if line.delay_s is None else f"{line.delay_s:.0f} s",
                "" if line.rssi is None else f"{line.rssi} dBm",
            )
            table.add_row(*(Text(plain(cell), style="bold red" if n == 3 else "") for n, cell in enumerate(cells)))
        return table


def _show(values: dict[str, tuple[Any, str]], most: int = 3) -> Iterable[str]:
    for quantity in [q for q in _SHOWN if q in values][:most]:
        value, unit = values[quantity]
        yield f"{quantity} {value}" + (f" {unit}" if unit not in ("", "1") else "")


def _alert(alert: dict[str, Any]) -> str:
    sign = {"above": ">", "below": "<"}.get(str(alert.get("code", "")), "")
    if not sign or alert.get("limit") is None:
        return f"{alert.get('quantity', '')} {alert.get('code', '')}".strip()
    return f"{alert['quantity']} {alert.get('value')} {sign} {alert['limit']}"
