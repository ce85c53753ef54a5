"""A gateway of a page with the contract the simulator relies on: answers every frame, PULL_ACK as the barrier, READY, SIGTERM.

`python fake_gateway.py --config gateway.toml`; nothing is stored. Faults by environment FAKE_GATEWAY: silent, die, never-ready.
"""

import base64
import json
import os
import signal
import socket
import sys
import threading
import tomllib
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

FAULT = os.environ.get("FAKE_GATEWAY", "")
config = tomllib.loads(Path(sys.argv[-1]).read_text())
host, port = config["link"]["lora"]["bind"].split(":")
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((host, int(port)))
broker, broker_port = config["link"]["wifi"]["broker"].split(":")
client = mqtt.Client(CallbackAPIVersion.VERSION2)
subscribed = threading.Event()
client.on_subscribe = lambda *_: subscribed.set()
client.on_connect = lambda c, *_: c.subscribe("citymote/v1/up/#")
client.on_message = lambda c, _u, m: c.publish(m.topic.replace("/up/", "/down/"), b"ok" + m.payload[:4])
client.will_set("city/v1/gw/gw-1/state", "offline")
client.connect(broker, int(broker_port))
client.loop_start()


def leave(*_):
    client.publish("city/v1/gw/gw-1/state", "offline").wait_for_publish(2)
    sys.exit(0)


signal.signal(signal.SIGTERM, leave)
subscribed.wait(60)
if FAULT == "never-ready":
    signal.pause()
if FAULT == "die":
    sys.exit("fake gateway dies")
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
seen, due = set(), {}
while True:
    data, peer = sock.recvfrom(65536)
    token, kind, eui = data[1:3], data[3], data[4:12]
    if FAULT == "silent":
        continue
    if kind == 0:
        sock.sendto(b"\2" + token + b"\1", peer)
        for rx in json.loads(data[12:]).get("rxpk", ()):
            frame = base64.b64decode(rx["data"])
            if frame[:4] not in seen:
                seen.add(frame[:4])
                answer = base64.b64encode(b"ok" + frame[:4]).decode()
                due.setdefault(eui, []).append(
                    {"tmst": (rx["tmst"] + 1_000_000) % 2**32, "freq": rx["freq"], "rfch": 0, "powe": 14, "modu": "LORA",
                     "datr": rx["datr"], "codr": "4/5", "ipol": False, "size": 6, "data": answer.rstrip("=")}
                )  # fmt: skip
    elif kind == 2:
        for txpk in due.pop(eui, ()):
            sock.sendto(b"\2\0\0\3" + json.dumps({"txpk": txpk}).encode(), peer)
        sock.sendto(b"\2" + token + b"\4", peer)
