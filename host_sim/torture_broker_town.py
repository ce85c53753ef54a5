"""A small town for `sim torture broker`: its nodes and their frames, the configuration as it stands, and what a backend ought to see.

The belief about the truth is kept here from what the nodes sealed, without any code of the gateway: newest value per quantity by row
time, alarms and status by counter, names and rights by the configuration. A frame counts once it was acknowledged.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from motewire import codes

from host_sim.load import Mote

AIR, BAYS, OLD, NAPPERS = 24, 6, 6, 4
LORA = 6  # of the air nodes: over a packet forwarder, the others over the nodes' own broker
INTERVAL_S, NAP_INTERVAL_S = 600, 60
OFFLINE_S = 300.0
UNSURE_S = 10.0  # round the moment at which a silent node is declared offline
FUTURE_S = 400 * 86_400
PM25, PM10, TEMPERATURE, OCCUPIED = 5, 6, 1, 17
AIR_SCHEMA, BAY_SCHEMA = 3, 12
ROOTS = {"city": "city", "portal": "portal"}
DISCOVERY = "homeassistant"
OPTIONAL_FORMATS: tuple[str, ...] = ("homeassistant", "ngsi-ld")
NARROW = ("pm10", "temperature", "pressure")
OF_THE_NODE = (
    "uptime",
    "boots",
    "battery_voltage",
    "rssi",
    "snr",
)  # restricted by the registry: an open output does not show them
CENTRE, NORTH = "centre", "north"
NAME = re.compile(r"(?:aq|ba|od|na)\d{3}r\d+")

# rule of the town: quantity, limit, clear, value beyond, value inside (raw)
RULES = {"warm": ("temperature", 30, 28), "dusty": ("pm25", 100, 80), "dirty": ("pm10", 200, 180)}


@dataclass(frozen=True, slots=True)
class Frame:
    """A sealed frame that waits for its acknowledgement. learn: what is true once the gateway has it; leaf: where its event arrives."""

    counter: int
    data: bytes
    learn: Callable[[], None]
    leaf: str


@dataclass
class Belief:
    """What is true of a node. values: quantity -> (order, value, row time or None). up: rule -> True, False, or None where both are right."""

    values: dict[str, tuple[int, float, int | None]] = field(default_factory=dict)
    up: dict[str, bool | None] = field(default_factory=dict)
    said: dict[str, int] = field(default_factory=dict)  # quantity -> counter of its newest alarm message
    status: int = 0  # counter of the newest status
    heard: float = 0.0
    again: bool = True  # it has spoken since it is in the registry
    unsure: set[str] = field(
        default_factory=set
    )  # quantities that it has not reported again since it came back, or was made open
    secret: set[str] = field(default_factory=set)  # quantities whose newest value was reported while it was personal

    opened: float = 0.0  # when it was made open
    concealed: set[str] = field(default_factory=set)  # alarms that may have begun before that, and did not end since

    def raised(self, name: str, since: float) -> None:
        """An alarm is up, as of a message or row of that time. One that began while fewer might see it stays theirs until it ends: both are right."""
        if since <= self.opened + UNSURE_S:  # the gateway opens it when it reloads
            self.concealed.add(name)
        self.up[name] = None if name in self.concealed else True

    def cleared(self, name: str) -> None:
        self.concealed.discard(name)
        self.up[name] = False

    def forget_alarms(self) -> None:
        """A change of name or rights may end an alarm or show it under the new name: both are right until its next alarm message."""
        self.up = {rule: None for rule, up in self.up.items() if up is not False}


@dataclass
class Thing:
    """A node: what it is, and how the registry knows it now."""

    mote: Mote
    kind: str  # aq, ba, od, na
    bearer: str
    visibility: str = "open"
    area: str = NORTH
    present: bool = True
    revision: int = 0
    t: int = 0  # newest row
    box: dict[int, Frame] = field(default_factory=dict)
    belief: Belief = field(default_factory=Belief)

    @property
    def name(self) -> str:
        """Its name, which no other node ever had."""
        return f"{self.kind}{self.mote.id:03d}r{self.revision}"


class Town:
    """Nodes, configuration and belief. Everything that happens to them is a method; write() makes the configuration files."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        r = self.rng
        self.now = int(time.time())
        self.things: list[Thing] = []
        for n, kind in enumerate(["aq"] * AIR + ["ba"] * BAYS + ["od"] * OLD + ["na"] * NAPPERS):
            mote = Mote(300 + n, bytes(r.randrange(256) for _ in range(16)))
            bearer = "lora" if n < LORA else "wifi"
            self.things.append(Thing(mote, kind, bearer, r.choice(("open", "open", "restricted")), t=self.now - 5))
        for thing in self.things:
            thing.area = CENTRE if thing.mote.id % 3 else NORTH
            if thing.kind == "od":
                thing.t = self.now - 5 * 86_400
        self.rules = dict.fromkeys(RULES, True)
        self.market = True
        self.formats = dict.fromkeys(OPTIONAL_FORMATS, True)
        self.narrow = False
        self.portal = True

    # the configuration

    def write(self, folder: Path, address: str, links: str, store: Path, http: str = "") -> Path:
        """Write gateway.toml, nodes.toml and rules.toml, each whole or not at all; return the first."""
        nodes = "".join(
            f'[[node]]\nid = {x.mote.id}\nname = "{x.name}"\nkey = "{x.mote.key.hex()}"\nprofile = "{_PROFILES[x.kind]}"\n'
            f"interval_s = {NAP_INTERVAL_S if x.kind == 'na' else INTERVAL_S}\nlat = 45.54\nlon = 13.73\n"
            f'visibility = "{x.visibility}"\narea = "{x.area}"\n'
            for x in self.things
            if x.present
        )
        rules = '[rules]\ntime_zone = "UTC"\nsettle_s = 0\n' + "".join(
            f'[rule.{name}]\nquantity = "{q}"\nabove = {above}\nclear = {clear}\nseverity = "warning"\nvisibility = "open"\n'
            for name, (q, above, clear) in RULES.items()
            if self.rules[name]
        )
        if self.market:
            rules += f'[area.market]\nkind = "lot"\nnodes = ["ba*"]\ncapacity = {BAYS}\nvisibility = "open"\n'
        formats = ["native", "senml", *(f for f, on in self.formats.items() if on)]
        gateway = (
            f'[gateway]\nid = "gw-1"\nstore = "{store}"\nrules = "rules.toml"\ndrain_s = 2\n[log]\nstyle = "json"\n{http}{links}'
            f'[output.city]\nkind = "mqtt"\nbroker = "{address}"\nroot = "city"\nformats = {_list(formats)}\n'
        )
        if self.portal:
            gateway += (
                f'[output.portal]\nkind = "mqtt"\nbroker = "{address}"\nroot = "portal"\nformats = ["native"]\n'
                f'visibility = ["open"]\nareas = ["{CENTRE}"]\n'
                + (f"quantities = {_list(NARROW)}\n" if self.narrow else "")
            )
        for name, text in (("nodes.toml", nodes), ("rules.toml", rules), ("gateway.toml", gateway)):
            part = folder / f"{name}.new"
            part.write_text(f"{text}# end\n")  # a file that is the beginning of what it was is asked for twice
            part.chmod(0o600)
            os.replace(part, folder / name)
        return folder / "gateway.toml"

    # what happens to nodes and configuration: each returns False where it does not apply now

    def rename(self) -> bool:
        return self._change(lambda x: True, lambda x: setattr(x, "revision", x.revision + 1))

    def remove(self) -> bool:
        away = sum(not x.present for x in self.things)
        return away < 6 and self._change(lambda x: x.kind == "aq" and not x.box, lambda x: setattr(x, "present", False))

    def put_back(self) -> bool:
        def back(x: Thing) -> None:
            x.present, x.belief.again = True, False
            x.belief.unsure = set(x.belief.values)

        return self._change(lambda x: not x.present, back, present=False)

    def make_personal(self) -> bool:
        hidden = sum(x.visibility == "personal" for x in self.things)
        return hidden < 6 and self._change(
            lambda x: x.kind == "aq" and x.visibility != "personal", lambda x: setattr(x, "visibility", "personal")
        )

    def make_open(self) -> bool:
        def to(x: Thing) -> None:
            x.visibility = "open"
            x.belief.unsure = set(x.belief.values)
            x.belief.opened = time.time()
            x.belief.concealed = {name for name, up in x.belief.up.items() if up is not False}

        return self._change(lambda x: x.visibility == "personal", to)

    def move(self) -> bool:
        def to(x: Thing) -> None:
            x.area = NORTH if x.area == CENTRE else CENTRE

        return self._change(
            lambda x: x.mote.id != self.things[1].mote.id, to
        )  # one stays in each area, or a filter names none

    def _change(self, fits: Callable[[Thing], bool], change: Callable[[Thing], None], present: bool = True) -> bool:
        fitting = [x for x in self.things if x.present == present and fits(x)]
        if not fitting:
            return False
        x = self.rng.choice(fitting)
        change(x)
        x.belief.forget_alarms()
        return True

    def rule_out(self) -> bool:
        name = self._pick(self.rules, True)
        if name is None:
            return False
        self.rules[name] = False
        for x in self.things:
            x.belief.up.pop(name, None)
        return True

    def rule_in(self) -> bool:
        name = self._pick(self.rules, False)
        if name is not None:
            self.rules[name] = True
        return name is not None

    def format_out(self) -> bool:
        return self._toggle(self.formats, True)

    def format_in(self) -> bool:
        return self._toggle(self.formats, False)

    def area_out(self) -> bool:
        return self._set("market", True, False)

    def area_in(self) -> bool:
        return self._set("market", False, True)

    def filter_narrowed(self) -> bool:
        return self.portal and self._set("narrow", False, True)

    def filter_widened(self) -> bool:
        return self.portal and self._set("narrow", True, False)

    def output_out(self) -> bool:
        return self._set("portal", True, False)

    def output_in(self) -> bool:
        return self._set("portal", False, True)

    def _pick(self, of: Mapping[str, bool], value: bool) -> str | None:
        names = [name for name, on in of.items() if on is value]
        return self.rng.choice(names) if names else None

    def _toggle(self, of: dict[str, bool], value: bool) -> bool:
        name = self._pick(of, value)
        if name is not None:
            of[name] = not value
        return name is not None

    def _set(self, what: str, before: bool, after: bool) -> bool:
        if getattr(self, what) is not before:
            return False
        setattr(self, what, after)
        return True

    # frames

    def speakers(self, n: int, kinds: str = "aq ba od") -> list[Thing]:
        """Return n nodes that may speak now."""
        able = [x for x in self.things if x.present and x.kind in kinds.split()]
        return self.rng.sample(able, min(n, len(able)))

    def speak(self, x: Thing, what: str = "") -> Frame:
        """Seal something new at a node: a report, status, raise or clear, by chance unless `what` names it; it is in its box then."""
        r = self.rng
        what = what or r.choices(("report", "status", "raise", "clear"), (6, 2, 2, 1 if x.kind == "aq" else 0))[0]
        if x.kind == "ba" and what != "status":
            what = "report"
        if x.kind == "od" and what in ("raise", "clear"):
            what = "report"
        frame = getattr(self, f"_{what}")(x)
        x.box[frame.counter] = frame
        return frame

    def _report(self, x: Thing, t: int | None = None, shown: bool = True) -> Frame:
        if t is None:
            x.t = x.t + self.rng.randrange(600, 3000) if x.kind == "od" else max(int(time.time()), x.t + 1)
            t = x.t
        if x.kind == "ba":
            bay = int(self.rng.random() < 0.5)
            data = x.mote.report(t, [[bay]], schema=BAY_SCHEMA, interval=0, long=True)
            values: dict[str, float] = {"occupied": bay}
        else:
            hot = x.kind != "od"
            row = [
                self.rng.randrange(40),
                self.rng.choice((12, 140)) if hot else 12,
                self.rng.choice((30, 240)) if hot else 30,
                self.rng.choice((200, 350)) if hot else 200,
                self.rng.randrange(300, 900),
                self.rng.randrange(50, 200),
            ]
            data = x.mote.report(t, [row], schema=AIR_SCHEMA, long=True)
            values = {
                "pm1": row[0], "pm25": row[1], "pm10": row[2], "temperature": row[3] / 10, "humidity": row[4] / 10,
                "pressure": (row[5] + 10_000) / 10,
            }  # fmt: skip
        return Frame(x.mote.counter, data, lambda: self._learn_report(x, t, values, shown), "senml")

    def _learn_report(self, x: Thing, t: int, values: Mapping[str, float], shown: bool) -> None:
        b = x.belief
        self._heard(x)
        for q, v in values.items():
            if not shown or q in b.values and t <= b.values[q][0]:
                continue
            b.values[q] = (t, v, t)
            self._told(x, q)
            for name, (quantity, above, clear) in RULES.items():
                if quantity == q and self.rules[name] and x.kind in ("aq", "na"):
                    if v <= clear:
                        b.cleared(name)
                    elif v > above and b.up.get(name, False) is False:
                        b.raised(name, t)

    def _told(self, x: Thing, quantity: str) -> None:
        """What was true when a value was reported counts beside what is true now: reported by a household, it stays the household's."""
        x.belief.unsure.discard(quantity)
        if x.visibility == "personal":
            x.belief.secret.add(quantity)
        else:
            x.belief.secret.discard(quantity)

    def _status(self, x: Thing) -> Frame:
        volts = self.rng.randrange(300, 420)
        data = x.mote.status(
            {codes.STATUS_UPTIME_S: x.mote.counter, codes.STATUS_BOOTS: 1, codes.STATUS_BATTERY: volts}, long=True
        )
        counter = x.mote.counter

        def learn() -> None:
            self._heard(x)
            if counter > x.belief.status:
                x.belief.status = counter
                x.belief.values["uptime"] = (counter, counter - 1, None)
                x.belief.values["battery_voltage"] = (counter, volts / 100, None)
                self._told(x, "uptime")
                self._told(x, "battery_voltage")

        return Frame(counter, data, learn, "event")

    def _raise(self, x: Thing, t: int | None = None) -> Frame:
        made = time.time()
        quantity = self.rng.choice(("pm10", "pm25"))
        number = PM10 if quantity == "pm10" else PM25
        data = x.mote.alarm(
            codes.ALARM_ABOVE, t or int(time.time()), number, self.rng.randrange(151, 400), 150, long=True
        )
        return Frame(x.mote.counter, data, self._alarm(x, quantity, made), "event")

    def _clear(self, x: Thing) -> Frame:
        quantity = self.rng.choice(("pm10", "pm25"))
        number = PM10 if quantity == "pm10" else PM25
        data = x.mote.alarm(codes.ALARM_CLEARED, int(time.time()), number, 20, 150, long=True)
        return Frame(x.mote.counter, data, self._alarm(x, quantity, None), "event")

    def _alarm(self, x: Thing, quantity: str, raised: float | None) -> Callable[[], None]:
        """raised: when the message was made that raises it, None: it clears."""
        counter = x.mote.counter

        def learn() -> None:
            self._heard(x)
            if counter > x.belief.said.get(quantity, 0):
                x.belief.said[quantity] = counter
                if raised is None:
                    x.belief.cleared(f"{quantity}-above")
                else:
                    x.belief.raised(f"{quantity}-above", raised)

        return learn

    def _heard(self, x: Thing) -> None:
        x.belief.heard, x.belief.again = time.time(), True

    def late(self) -> tuple[Thing, list[Frame]]:
        """Seal an old and a new frame of one node, of one kind; return the old one last, as it arrives. They are in no box."""
        (x,) = self.speakers(1, "aq")
        what = self.rng.choice(("report", "status", "alarm"))
        if what == "alarm":
            first, then = self.rng.sample((self._raise, self._clear), 2)
            old, new = first(x), then(x)
        else:
            make = getattr(self, f"_{what}")
            old, new = make(x), make(x)
        return x, [new, old]

    def future(self) -> Frame:
        """Seal a report or an alarm whose clock is far ahead; it is in its node's box."""
        (x,) = self.speakers(1, "aq")
        ahead = int(time.time()) + FUTURE_S
        frame = self._raise(x, ahead) if self.rng.random() < 0.6 else self._report(x, ahead, shown=False)
        x.box[frame.counter] = frame
        return frame

    # what a backend ought to see

    def sees(self, output: str, x: Thing) -> bool:
        """True when what is published of a node itself may be seen on an output."""
        if not x.present or x.visibility == "personal":
            return False
        return output == "city" or (self.portal and x.visibility == "open" and x.area == CENTRE)

    def shows(self, output: str, quantity: str) -> bool:
        """True when an output shows a quantity of the nodes it sees."""
        return output == "city" or (quantity not in OF_THE_NODE and (not self.narrow or quantity in NARROW))

    def judge(self, tree: Mapping[str, bytes], decode: Callable[[bytes], Any]) -> Iterator[tuple[str, str, str]]:
        """Hold a retained tree against the belief; yield (missing, wrong or left_over; topic; what it ought to be)."""
        now = time.time()
        for output in ("city", "portal") if self.portal else ("city",):
            state = f"{ROOTS[output]}/v1/gw/gw-1/state"
            if tree.get(state) != b"online":
                yield "wrong", state, "online"
            for x in self.things:
                if self.sees(output, x):
                    yield from self._node(output, x, tree, decode, now)
        yield from self._gone(tree)

    def _node(
        self, output: str, x: Thing, tree: Mapping[str, bytes], decode: Callable[[bytes], Any], now: float
    ) -> Iterator[tuple[str, str, str]]:
        b, top = x.belief, f"{ROOTS[output]}/v1/node/{x.name}"
        if not b.heard:
            return
        if f"{top}/meta" not in tree:
            yield "missing", f"{top}/meta", "what the node is"
        silent = now - b.heard
        if (
            b.again
            and (x.kind == "na" or silent < OFFLINE_S)
            and not OFFLINE_S - UNSURE_S < silent < OFFLINE_S + UNSURE_S
        ):
            want = b"online" if silent < OFFLINE_S else b"offline"
            if tree.get(f"{top}/state") != want:
                kind = "wrong" if f"{top}/state" in tree else "missing"
                yield kind, f"{top}/state", want.decode()
        for q, (_, value, t) in b.values.items():
            topic = f"{top}/q/{q}"
            if q in b.secret and topic in tree:
                yield "left_over", topic, "reported while the node was personal"
                continue
            if not self.shows(output, q) or (q in b.unsure or q in b.secret) and topic not in tree:
                continue
            if topic not in tree:
                yield "missing", topic, f"{value} of {q}"
                continue
            body = decode(tree[topic])
            if abs(body["v"] - value) > 1e-9 or t is not None and body["t"] != iso(t):
                yield (
                    "wrong",
                    topic,
                    f"{value} of {iso(t) if t is not None else 'its newest status'}, not {body['v']} of {body['t']}",
                )
        for rule, up in b.up.items():
            topic = f"{top}/alert/{rule}"
            quantity = RULES[rule][0] if rule in RULES else rule.partition("-")[0]
            if up and self.shows(output, quantity) and topic not in tree:
                yield "missing", topic, "up"
            elif up is False and topic in tree:
                yield "left_over", topic, "over"
        if output == "city" and self.formats["homeassistant"] and b.values.keys() - {"uptime", "battery_voltage"}:
            topic = f"{DISCOVERY}/device/{x.name}/config"
            if topic not in tree:
                yield "missing", topic, "its discovery"

    def _gone(self, tree: Mapping[str, bytes]) -> Iterator[tuple[str, str, str]]:
        by = {x.name: x for x in self.things}
        for topic in tree:
            root, _, rest = topic.partition("/")
            if root == "portal" and not self.portal:
                yield "left_over", topic, "its output was taken out"
                continue
            output = "portal" if root == "portal" else "city"
            name = NAME.search(topic)
            if name is not None and (name[0] not in by or not self.sees(output, by[name[0]])):
                yield "left_over", topic, "its node is not shown here"
                continue
            if (
                root == DISCOVERY
                and not self.formats["homeassistant"]
                or rest.startswith("v1/ngsi-ld")
                and not self.formats["ngsi-ld"]
            ):
                yield "left_over", topic, "its format was taken out"
            leaf, above = topic.rpartition("/")[2], topic.split("/")[-2]
            if above == "alert" and leaf in RULES and not self.rules[leaf]:
                yield "left_over", topic, "its rule was taken out"
            if above == "q" and not self.shows(output, leaf):
                yield "left_over", topic, "its quantity is filtered out"
            if rest.startswith("v1/area/market/") and (not self.market or output == "portal"):
                yield "left_over", topic, "its area was taken out"


_PROFILES = {"aq": "air_quality", "ba": "parking", "od": "air_quality", "na": "air_quality"}


def _list(names: Any) -> str:
    return "[" + ", ".join(f'"{n}"' for n in names) + "]"


def iso(t: float) -> str:
    """Return RFC 3339 UTC of whole seconds."""
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
