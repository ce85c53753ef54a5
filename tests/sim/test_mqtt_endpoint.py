"""The virtual broker speaks MQTT 3.1.1 to the nodes; paho's own packets are the judge."""

from __future__ import annotations

from host_sim import mqtt_wire as mw
from host_sim.mqtt_endpoint import Endpoint

CONNECT = mw.pack(mw.CONNECT, 0, b"\0\x04MQTT\x04\x02\0\x3c\0\x02n1")
SUBSCRIBE = mw.pack(mw.SUBSCRIBE, 2, b"\0\x07\0\x05a/b/c\0")


def connected() -> Endpoint:
    endpoint = Endpoint()
    assert endpoint.feed(CONNECT).reply == b"\x20\x02\0\0"
    return endpoint


def test_connect_subscribe_publish_ping_disconnect():
    endpoint = connected()
    assert endpoint.feed(SUBSCRIBE).reply == b"\x90\x03\0\x07\0"
    assert endpoint.wants("a/b/c") and not endpoint.wants("a/b")
    reaction = endpoint.feed(mw.publish("up/1", b"frame"))
    assert [(u.topic, u.payload) for u in reaction.uplinks] == [("up/1", b"frame")] and reaction.reply == b""
    assert endpoint.feed(b"\xc0\0").reply == b"\xd0\0"
    assert endpoint.feed(b"\xe0\0").close


def test_bytes_may_come_one_at_a_time():
    endpoint = Endpoint()
    stream = CONNECT + SUBSCRIBE + mw.publish("t" * 200, bytes(300))
    replies, uplinks = b"", []
    for i in range(len(stream)):
        reaction = endpoint.feed(stream[i : i + 1])
        replies += reaction.reply
        uplinks += reaction.uplinks
    assert replies == b"\x20\x02\0\0\x90\x03\0\x07\0"
    assert len(uplinks) == 1 and len(uplinks[0].payload) == 300


def test_qos_1_is_acknowledged():
    endpoint = connected()
    reaction = endpoint.feed(mw.pack(mw.PUBLISH, 2, b"\0\x01t\x12\x34hello"))
    assert reaction.reply == b"\x40\x02\x12\x34" and reaction.uplinks[0].payload == b"hello"


def test_a_client_that_breaks_the_protocol_is_cut_off():
    assert Endpoint().feed(SUBSCRIBE).close  # CONNECT must be first
    assert connected().feed(b"\x82\xff\xff\xff\xff\x01").close  # five-byte length
    assert connected().feed(mw.pack(mw.PUBLISH, 4, b"\0\x01t\0\x01x")).close  # QoS 2
    assert Endpoint().feed(mw.pack(mw.CONNECT, 0, b"\0\x04MQTT\x05\x02\0\x3c\0\0\x02n1")).reply == b"\x20\x02\0\x01"


def test_a_wildcard_subscription_matches_below_it():
    endpoint = connected()
    endpoint.feed(mw.pack(mw.SUBSCRIBE, 2, b"\0\x01\0\x04a/b#\0"))
    assert endpoint.wants("a/bcd") and not endpoint.wants("a/c")
