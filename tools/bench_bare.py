"""The bare loop that `citymote bench gateway` compares with: what anybody would write first, and nothing that keeps data.

    python -m tools.bench_bare BROKER_PORT

Prints its UDP port, then without end: receives a CBOR report in plain form, unsealed; decodes it with cbor2; publishes `messages`
(byte 0 of the datagram) JSON messages of QoS 1 with paho: all but one a single value, the last one the whole report. No tag, no
counter, no disk, no state, no log. One thread drives the socket and paho, which is cheaper than paho's own network thread
(`--thread`, for comparison).
"""

from __future__ import annotations

import json
import select
import socket
import sys
from typing import Any

import cbor2
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

KEYS = ("laeq", "lafmax", "la10", "la50", "la90")


def publish(client: paho.Client, data: bytes) -> None:
    """Decode one datagram and publish its messages."""
    messages, node = data[0], int.from_bytes(data[1:5], "big")
    _, t, step, columns, *_ = cbor2.loads(data[5:])
    topic = f"bare/v1/node/n-{node}"
    values: list[tuple[str, int, float]] = []
    for key, cells in zip(KEYS, columns, strict=True):
        value = 0
        for i, delta in enumerate(cells):
            value += delta
            values.append((key, t + i * step, value / 10))
    for i in range(messages - 1):
        key, when, v = values[i % len(values)]
        body = {"v": v, "u": "dB", "t": when}
        client.publish(f"{topic}/{i}/{key}", json.dumps(body), 1)
    everything: list[dict[str, Any]] = [{"n": key, "u": "dB", "t": when, "v": v} for key, when, v in values]
    client.publish(f"{topic}/all", json.dumps(everything), 1)


def main() -> None:
    """Run until killed."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind(("127.0.0.1", 0))
    client = paho.Client(CallbackAPIVersion.VERSION2, "bare")
    client.max_inflight_messages_set(65535)
    client.connect("127.0.0.1", int(sys.argv[1]))
    print(sock.getsockname()[1], flush=True)
    if "--thread" in sys.argv:
        client.loop_start()
        while True:
            publish(client, sock.recv(65536))
    sock.setblocking(False)
    while True:
        mqtt = client.socket()
        if mqtt is None:
            sys.exit("the broker is gone")
        readable, writable, _ = select.select((sock, mqtt), (mqtt,) if client.want_write() else (), (), 1.0)
        if sock in readable:
            publish(client, sock.recv(65536))
        if mqtt in readable:
            client.loop_read()
        if writable:
            client.loop_write()
        if not readable:
            client.loop_misc()


if __name__ == "__main__":
    from host_sim.zygote import die_with_parent

    die_with_parent()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
