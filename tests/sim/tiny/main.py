"""A firmware of a page for tests of the simulator: samples a voltage each minute, sends every ten, listens for an answer.

Frame: node id (2 bytes), counter (2), unanswered so far (2). The counter survives in NVS.
"""

import asyncio
import json
import socket
import struct
from random import getrandbits

import esp32
import machine
import network
from lora import AsyncSX1262
from mote.batcher import Batcher

with open("/config.json") as f:
    config = json.load(f)
nvs = esp32.NVS("tiny")
adc = machine.ADC(machine.Pin(35), atten=machine.ADC.ATTN_11DB)
batcher = Batcher((20,), "/rows.txt")
print("boot", machine.reset_cause())


def counter():
    try:
        n = nvs.get_i32("n") + 1
    except OSError:
        n = 1
    nvs.set_i32("n", n)
    nvs.commit()
    return n


async def sampler(dog):
    from time import time

    while True:
        batcher.append(time(), (adc.read_uv() // 10000,), 1)
        dog.feed()
        await asyncio.sleep(60)


async def lora():
    radio = AsyncSX1262(
        None, None, None, dio3_tcxo_millivolts=1800,
        lora_cfg={"freq_khz": 868100 + 200 * (config["node"] % 3), "sf": config["sf"], "preamble_len": 8},
    )  # fmt: skip
    missed = 0
    while True:
        await asyncio.sleep(600)
        await asyncio.sleep_ms(getrandbits(13))
        await radio.send(struct.pack(">HHH", config["node"], counter(), missed))
        await asyncio.sleep_ms(990)
        got = await radio.recv(timeout_ms=60)
        missed += got is None
        if got is not None:
            print("answered")
        radio.sleep()


def packet(kind, body):
    return bytes((kind, len(body))) + body


async def wifi():
    wlan = network.WLAN(network.STA_IF)
    wlan.active(True)
    await asyncio.sleep_ms(1000)  # some chips refuse every network when they are asked sooner
    wlan.connect("city", "simulated")
    while not wlan.isconnected():
        await asyncio.sleep_ms(200)
    s = socket.socket()
    s.connect(socket.getaddrinfo("10.0.0.1", 1883)[0][-1])
    me = b"%08x" % config["node"]
    s.write(packet(0x10, b"\0\4MQTT\4\2\0\0\0\x08" + me))
    assert s.read(4) == b"\x20\2\0\0"
    s.write(packet(0x82, b"\0\1\0\x19citymote/v1/down/" + me + b"\0"))
    assert s.read(5)[0] == 0x90
    stream = asyncio.StreamReader(s)
    missed = 0
    while True:
        await asyncio.sleep(600)
        s.write(packet(0x30, b"\0\x17citymote/v1/up/" + me + struct.pack(">HHH", config["node"], counter(), missed)))
        try:
            head = await asyncio.wait_for(stream.readexactly(2), 5)
            await stream.readexactly(head[1])
        except asyncio.TimeoutError:  # noqa: UP041 (no alias on the VM)
            missed += 1


async def main():
    dog = machine.WDT(timeout=90000)
    asyncio.create_task(sampler(dog))
    await (wifi() if config["link"] == "wifi" else lora())


asyncio.run(main())
