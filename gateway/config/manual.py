"""What every key is for, and an example of it: for `citymote gateway init`, `check`, and the test that tries all keys.

Defaults and ranges are not written here: `specs` learns them from the readers themselves. A key without a line here fails
tests/gateway/test_config_keys.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Help(NamedTuple):
    """What a key is for, with its unit; a TOML value for it, where the default cannot serve as an example; its range and default, where
    they depend on another key."""

    text: str
    example: str = ""
    facts: str = ""


_SHARED: Mapping[str, Help] = {
    "kind": Help("What it is."),
    "broker": Help("Host and port of the MQTT broker; the port may be left out (1883, with TLS 8883).", '"127.0.0.1:1883"'),
    "username": Help("Who we are to the broker.", '"citymote"'),
    "password_file": Help("File that holds the password and nothing else; read at every connect.", '"password"'),
    "ca_file": Help("Authority that signed the other side's certificate (PEM); switches TLS on.", '"ca.pem"'),
    "cert_file": Help("Our own certificate (PEM), for those who ask for one.", '"gateway.pem"'),
    "key_file": Help("The private key of cert_file (PEM).", '"gateway.key"'),
    "visibility": Help("What may leave here. Household water is personal: name it only for who may have it."),
    "profiles": Help("Only nodes of these profiles.", '["air_quality", "noise"]'),
    "quantities": Help("Only these quantities.", '["pm10", "temperature"]'),
    "areas": Help("Only nodes of these areas (area in nodes.toml).", '["centre"]'),
}  # fmt: skip

SECTION_HELP: Mapping[str, str] = {
    "gateway": "This box.",
    "log": "Log lines on stderr, which systemd keeps in the journal. Keys and payloads are never logged.",
    "http": "/metrics (Prometheus), /health and /ready (JSON), read-only. Without bind nothing listens.",
    "store": "How long what is kept. What an output has not taken goes at size_mb only: oldest first, alarms last, told and counted.",
    "link.udp-forwarder": "LoRa frames from Semtech UDP packet forwarders. The protocol has no authentication: bind to loopback or a VPN.",
    "link.mqtt": "Frames of WiFi nodes through a broker.",
    "output.mqtt": "A broker that is told of everything that was committed. Each output keeps its own place; a dead one delays nobody.",
    "output.files": "A folder of daily files.",
    "commands": "Who may have what done by which nodes. Without this table nothing is executed.",
    "output.ngsi-ld-http": "An NGSI-LD broker (Orion-LD, Scorpio, Stellio): entities by HTTP.",
}

KEYS: Mapping[str, Mapping[str, Help]] = {
    "gateway": {
        "id": Help("Name of this gateway, a level of its topics."),
        "store": Help("File of the store; relative paths count from this file."),
        "registry": Help("File of the nodes and their keys; readable by the gateway alone."),
        "clock": Help("Where the time is from: forwarder for a box without a clock of its own; lockstep is for simulations."),
        "drain_s": Help("Seconds that outputs get to take what is waiting when the gateway is stopped."),
        "node_burst": Help("Frames of up to 64 cells and 6 published values that one node may bring at once; beyond, they are not acked and come again."),
        "node_rate": Help("Such frames per second that one node may bring for ever; a quarter of it again for alarms."),
        "rules": Help("File of limits, aggregates, faults and areas (gateway/defaults has examples).", '"rules.toml"'),
    },
    "log": {
        "level": Help("The least that is told."),
        "style": Help("auto: JSON unless stderr is a terminal."),
        "repeats": Help("Lines of one kind told within 10 s, the rest is counted; 0: all of them. Errors are always told."),
    },
    "http": {
        "bind": Help("Address and port to listen on.", '"127.0.0.1:9464"'),
        "allow_non_loopback": Help("Say true to let other machines ask, too; then guard the port with a firewall."),
        "hosts": Help("Names under which it is asked, beside addresses and localhost; others are refused.", '["gateway.lan"]'),
    },
    "store": {
        "frames_days": Help("Days that raw frames are kept."),
        "rows_days": Help("Days that decoded rows are kept."),
        "spool_hours": Help("Hours that events are kept which every output has taken, for replay."),
        "alarms_days": Help("Days that alarms are kept."),
        "size_mb": Help("Room that the store may take on the disk, in MiB."),
        "reserve_mb": Help("MiB that are held back on the disk and given up for alarms when it is full; 0: none."),
    },
    "link.udp-forwarder": {
        "bind": Help("Address and UDP port to listen on.", '"127.0.0.1:1700"'),
        "allow": Help("EUIs of the forwarders (16 hex digits); better { EUI = \"the address it sends from\" }. Without any only those of this machine.", '["aa555a0000000001"]'),
        "collect_ms": Help("Milliseconds to wait for copies of a frame through other receivers."),
        "power_dbm": Help("Power of downlinks in dBm ERP; 14 is the limit below 869.4 MHz."),
    },
    "link.mqtt": {"root": Help("First level of the nodes' topics: <root>/v1/up/<id>.")},
    "output.mqtt": {
        "root": Help("First level of all topics."),
        "formats": Help("What is published."),
        "window": Help("Messages that may wait for the broker's PUBACK."),
        "discovery": Help("Topic prefix of Home Assistant's discovery."),
    },
    "output.files": {
        "folder": Help("Where the files go; made when it is not there. Relative paths count from this file; the installed unit may write below /var/lib/citymote only.", '"archive"'),
        "formats": Help("What is written; parquet needs pyarrow."),
    },
    "output.ngsi-ld-http": {
        "url": Help("The broker, without path.", '"http://127.0.0.1:1026"'),
        "batch": Help("Events in one request."),
        "timeout_s": Help("Seconds to wait for an answer."),
        "tenant": Help("Header NGSILD-Tenant.", '"city"'),
        "token_file": Help("File that holds the bearer token; read at every connect.", '"token"'),
    },
    "commands": {
        "output": Help("The output through whose broker requests come in.", '"city"'),
        "console": Help("Whom requests on node/<node>/cmd, a topic of nobody's, count as; without it they are refused.", '"anna"'),
        "max_open": Help("Commands that one node may have open."),
        "max_queue": Help("Commands that may be open in all."),
        "role": Help("What people of this role may have done: commands, profiles, nodes, longest_s, arrears.", '{ operator = { commands = ["read_now"] } }'),
        "requester": Help("Who has which roles; the name is the user name at the broker.", '{ anna = { roles = ["operator"] } }'),
        "valve": Help("Policy of a meter's valve: auto_close, fail_safe.", '{ "water-*" = { auto_close = false, fail_safe = "stay" } }'),
    },
    "node": {
        "id": Help("The number in the node's frames.", "263"),
        "name": Help("Its level in the topics."),
        "key": Help("16 bytes as hex, from its provisioning.", '"000102030405060708090a0b0c0d0e0f"'),
        "epoch": Help("Counts the keys it has had."),
        "profile": Help("air_quality, noise, water_meter, parking, bin_fill or another name."),
        "interval_s": Help("Seconds between its reports; three without one and it counts as offline."),
        "lat": Help("Degrees north, -90 to 90.", "45.5"),
        "lon": Help("Degrees east, -180 to 180.", "13.7"),
        "visibility": Help("open, restricted or personal: the most that anybody may see of it."),
        "next_key": Help("The key it is to change to.", '"101112131415161718191a1b1c1d1e1f"'),
        "next_epoch": Help("Its epoch under next_key.", "1", "epoch + 1 to epoch + 3; default epoch + 1"),
        "area": Help("Where it is, for filters and sums.", '["centre"]'),
    },
}  # fmt: skip


def section_of(where: str, kind: object = None) -> str:
    """Return the name under which KEYS has a table: "link.lora" of kind "mqtt" is "link.mqtt"."""
    first = where.partition(".")[0]
    return f"{first}.{kind}" if isinstance(kind, str) and first != where else first


def help_of(section: str, key: str) -> Help | None:
    """Return what is said about a key, None when nobody has said anything."""
    own = KEYS.get(section, {}).get(key)
    return own if own is not None or section not in KEYS else _SHARED.get(key)


def example(where: str, kind: object, key: str) -> str | None:
    """Return a TOML value that would do for a key that must be there."""
    known = help_of(section_of(where, kind), key)
    return known.example or None if known else None
