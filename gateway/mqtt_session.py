"""One MQTT 3.1.1 connection through paho, driven by the asyncio loop: no thread, no queue inside paho. What is published goes past it
(`mqtt_wire.py`).

A session lives as long as its TCP connection. Reconnecting means a new session, so that what must be sent again is decided
by the cursor of an output and not by a library.

What the callbacks of an owner raise never reaches paho, which would keep the half-handled packet and handle it again: a message that
cannot be handled is that message's fault (`caught`), and the session goes on. Where books of ours may be wrong behind an exception (a PUBACK, a packet that
paho could not read), the session ends, and its owner makes a new one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion

from gateway import tls
from gateway.config import Broker
from gateway.credentials import read_secret
from gateway.mqtt_ask import NO_RETAIN_NEXT, ask
from gateway.mqtt_wire import Client, Wire

CONNECT_S = 10.0
KEEPALIVE_S = 30
FIRST_MID, LAST_MID = 1024, 65535  # message ids of publications; paho's own (subscriptions) count from 1

log = structlog.get_logger(__name__)


class MqttError(Exception):
    """The broker cannot be reached, refused us, or is gone. hint: what to do next, "" when there is nothing special."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class NotSubscribed(MqttError):
    """The broker lets us connect, but not read this topic."""


def _told(error: BaseException) -> None:
    log.error("mqtt_callback_failed", error=type(error).__name__)


class MqttSession:
    """Use: await connect(); publish(); `closed` resolves when the connection ends. Callbacks run in the loop."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        will: tuple[str, bytes] | None = None,
        caught: Callable[[BaseException], None] = _told,
    ) -> None:
        """will: (topic, payload) published by the broker, retained with QoS 1, when we vanish. caught: gets what our own code raised."""
        self._broker = broker
        self._caught = caught
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._subscribed: dict[int, asyncio.Future[None]] = {}
        self._will, self._refused = will is not None, False
        self._wire: Wire | None = None
        self._mid = FIRST_MID
        self._flying: set[int] = set()  # message ids without their PUBACK
        self._writing = False  # a write is due in this turn of the loop
        self._waiting = False  # the kernel's buffer is full: the loop calls when it has room
        self._misc: asyncio.Task[None] | None = None
        self.on_message: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self.on_retained: Callable[[str, bytes], None] = lambda topic, payload: self.on_message(topic, payload)
        self.on_puback: Callable[[int], None] = lambda _mid: None
        self.on_pong: Callable[[int], None] = lambda _number: None  # to a ping() or to one of the keep-alive
        self.on_too_long: Callable[[], None] = lambda: (
            None
        )  # a message of more than mqtt_wire.LONGEST bytes was dropped
        c = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=True, protocol=paho.MQTTv311)
        if will is not None:
            c.will_set(will[0], will[1], qos=1, retain=True)
        c.on_connect = self._on_connect
        c.on_disconnect = self._on_disconnect
        c.on_message = lambda _c, _d, m: self._on_message(m)
        c.on_subscribe = lambda _c, _d, mid, codes, _p: self._on_subscribe(mid, codes)
        c.on_socket_close = lambda _c, _d, sock: self._forget(sock)
        c.on_socket_register_write = lambda *_: self._want_write()
        self._client = c

    async def connect(self) -> None:
        """Open the connection and wait for CONNACK. Raises MqttError."""
        b = self._broker
        try:
            if b.username is not None:
                password = read_secret(b.password_file) if b.password_file else None
                self._client.username_pw_set(b.username, password)
            if b.ca_file is not None:
                self._client.tls_set_context(tls.context(b.ca_file, b.cert_file, b.key_file))
            self._client.connect_timeout = CONNECT_S / 2
            await asyncio.to_thread(self._client.connect, b.host, b.port, KEEPALIVE_S)
            wire = self._client.socket()
            if not isinstance(wire, Wire):
                raise MqttError("paho gave no socket of ours: this version of it is unknown to mqtt_wire.py")
            wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._wire = wire
            self._loop.add_reader(wire, self._readable)
            self._want_write()
            self._misc = asyncio.create_task(self._keep_alive(), name="mqtt-keepalive")
            async with asyncio.timeout(CONNECT_S):
                # shielded: the time-out must not cancel what _drop() and others look at
                await asyncio.shield(self._connected)
        except (OSError, ValueError, TimeoutError) as e:
            self._drop("connect failed")
            reason, hint = tls.explain(e)
            hint = hint if b.ca_file is not None else ""
            raise MqttError(f"{b.host}:{b.port}: {reason}", hint) from e
        except MqttError as e:
            self._drop("connect failed")
            raise await self._explained(e) from e
        except BaseException:
            self._drop("connect failed")
            raise

    async def _explained(self, e: MqttError) -> MqttError:
        """Return why a broker closed the connection without a word, where MQTT 5 has one for it: it keeps no retained messages, not even our last will."""
        if not self._will or self._refused:
            return e
        try:
            answer = await asyncio.to_thread(ask, self._broker)
        except (OSError, ValueError):
            return e  # it is away now, which the next try says
        if answer is None or answer.retains:
            return e
        return MqttError(
            f"{self._where}: the broker keeps no retained messages, and lets no one in who has any", NO_RETAIN_NEXT
        )

    async def subscribe(self, topic: str | list[tuple[str, int]], qos: int = 0) -> None:
        """Subscribe to a topic, or to several with a QoS each, and wait for SUBACK. Raises NotSubscribed (refused), MqttError."""
        try:
            result, mid = self._client.subscribe(topic, qos)
        except ValueError as e:  # a filter that is none, or longer than MQTT has it
            raise MqttError(f"subscribe: {e}") from e
        if result != paho.MQTT_ERR_SUCCESS or mid is None:
            raise MqttError(f"subscribe: {paho.error_string(result)}")
        future: asyncio.Future[None] = self._loop.create_future()
        self._subscribed[mid] = future
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.shield(future)
        except TimeoutError as e:
            raise MqttError(f"{self._where}: no SUBACK within {CONNECT_S:.0f} s") from e
        finally:
            self._subscribed.pop(mid, None)
            if future.done() and not future.cancelled():
                future.exception()  # seen, also when our own task was cancelled

    async def unsubscribe(self, topics: list[str]) -> None:
        """Unsubscribe; the broker's word is not waited for. Raises MqttError."""
        result, _ = self._client.unsubscribe(topics)
        if result != paho.MQTT_ERR_SUCCESS:
            raise MqttError(f"unsubscribe: {paho.error_string(result)}")
        self._want_write()

    def publish(
        self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, first: bool = False
    ) -> int | None:
        """Send a message of QoS 0 or 1; return its id for on_puback (0 for QoS 0), or None when the connection is gone.

        None too for a message of QoS 0 while much is waiting to be sent. How many of QoS 1 are under way is the caller's to bound.
        first: before what hold() keeps back.
        """
        wire = self._wire
        if wire is None or self.closed.done() or (not qos and wire.full):
            return None
        mid = 0
        if qos:
            mid = self._mid
            while mid in self._flying:
                mid = mid + 1 if mid < LAST_MID else FIRST_MID
            self._mid = mid + 1 if mid < LAST_MID else FIRST_MID
        wire.publish(topic, payload, qos, retain, mid, first)
        if qos:
            self._flying.add(mid)
        self._want_write()
        return mid

    def ping(self) -> int:
        """Ask the broker for a sign of life; return the number that on_pong() will get. An answer shows that the broker has gone on behind all that
        was sent before; 0 when the connection is gone."""
        if self._wire is None or self.closed.done():
            return 0
        self._want_write()
        return self._wire.ping()

    def hold(self) -> None:
        """Keep back what anyone sends from here on, but for pings and what is published as first, until release()."""
        if self._wire is not None:
            self._wire.hold()

    def release(self) -> bool:
        """Let what was kept back go; True when there was something."""
        if self._wire is None:
            return False
        self._want_write()
        return self._wire.release()

    async def disconnect(self) -> None:
        """Say good-bye and close; pending bytes get a second to leave."""
        if not self.closed.done() and self._wire is not None:
            for _ in range(100):  # behind the DISCONNECT paho closes at once
                if self._wire is None or not (self._waiting or self._writing):
                    break
                await asyncio.sleep(0.01)
            self._client.disconnect()
            for _ in range(100):
                if self.closed.done() or not self._client.want_write():
                    break
                self._want_write()
                await asyncio.sleep(0.01)
        self._drop("disconnected")

    @property
    def _where(self) -> str:
        return f"{self._broker.host}:{self._broker.port}"

    def _on_message(self, m: paho.MQTTMessage) -> None:
        try:
            (self.on_retained if m.retain else self.on_message)(m.topic, bytes(m.payload))
        except Exception as e:  # this message's fault alone; m.topic itself raises for what is no UTF-8
            self._caught(e)

    def _on_connect(self, _c: Any, _d: Any, _flags: Any, code: Any, _props: Any) -> None:
        if self._connected.done():
            return
        if code.is_failure:
            self._refused = True
            self._connected.set_exception(MqttError(f"{self._where}: broker says {code}"))
        else:
            self._connected.set_result(None)

    def _on_disconnect(self, _c: Any, _d: Any, _flags: Any, code: Any, _props: Any) -> None:
        self._loop.call_soon_threadsafe(self._drop, str(code))

    def _on_subscribe(self, mid: int, codes: Any) -> None:
        future = self._subscribed.get(mid)
        if future is None or future.done():
            return
        if any(code.is_failure for code in codes):  # 0x80, MQTT 3.1.1 section 3.9.3
            future.set_exception(
                NotSubscribed(f"{self._where}: the broker refuses the subscription", "let our user read the topic (the broker's acl_file)")
            )  # fmt: skip
        else:
            future.set_result(None)

    def _want_write(self) -> None:
        # paho calls this from the connecting thread too, before the socket is ours. What is published in one turn of the loop leaves
        # together at the beginning of the next
        if self._wire is not None and not self._writing:
            self._writing = True
            self._loop.call_soon(self._write)

    def _readable(self) -> None:
        try:
            self._take_in()
        except Exception as e:  # nobody knows what is left of the packet: the connection has to be made anew
            self._caught(e)
            self._drop(f"{type(e).__name__} while reading")

    def _take_in(self) -> None:
        while (wire := self._wire) is not None:
            try:
                alive = wire.fill()
            except OSError as e:
                self._drop(e.strerror or "connection lost")
                return
            if not self._read(wire):
                return
            if not alive:
                self._drop("connection closed by the broker")
            elif not wire.pending():
                return

    def _read(self, wire: Wire) -> bool:
        """Take what has arrived; False when the connection ended by it."""
        while self._wire is wire:
            for mid in wire.acks():
                if mid in self._flying:
                    self._flying.remove(mid)
                    self.on_puback(mid)
            dropped, pongs = wire.dropped, wire.pongs
            more = wire.for_paho()
            for _ in range(wire.dropped - dropped):
                self.on_too_long()
                self._want_write()  # its PUBACK
            if not more and wire.dropped == dropped:
                return True
            if not more:
                continue  # what stands behind it may be an ack
            if self._client.loop_read() != paho.MQTT_ERR_SUCCESS:
                self._drop("connection lost")
            elif wire.pongs != pongs:
                self.on_pong(wire.pongs)
        return False

    def _write(self) -> None:
        self._writing = False
        try:
            self._send_out()
        except Exception as e:
            self._caught(e)
            self._drop(f"{type(e).__name__} while writing")

    def _send_out(self) -> None:
        if self._wire is None:
            return
        if self._client.want_write() and self._client.loop_write() != paho.MQTT_ERR_SUCCESS:
            self._drop("connection lost")
            return
        wire = self._wire
        if wire is None:  # that was the DISCONNECT
            return
        try:
            done = wire.flush()
        except OSError as e:
            self._drop(e.strerror or "connection lost")
            return
        done = done and not self._client.want_write()
        if not done and not self._waiting:
            self._loop.add_writer(wire, self._write)
        elif done and self._waiting:
            self._loop.remove_writer(wire)
        self._waiting = not done

    async def _keep_alive(self) -> None:
        why = "the keep-alive was cancelled"
        try:
            while self._client.loop_misc() == paho.MQTT_ERR_SUCCESS:
                await asyncio.sleep(1.0)
            why = "no answer to ping"
        except Exception as e:
            self._caught(e)
            why = f"{type(e).__name__} in the keep-alive"
        finally:
            self._misc = None
            self._drop(why)  # without it no one would notice a broker that has gone silent

    def _forget(self, wire: Any) -> None:
        # paho closes its socket at a protocol error; the loop must let go of the descriptor before that
        if wire is self._wire:
            self._wire = None
            self._loop.remove_reader(wire)
            self._loop.remove_writer(wire)

    def _drop(self, reason: str) -> None:
        wire = self._wire
        if wire is not None:
            self._forget(wire)
            wire.close()
        misc, self._misc = self._misc, None
        if misc is not None:
            misc.cancel()
        if not self._connected.done():
            b = self._broker
            hint = (
                ""
                if b.ca_file is None or b.cert_file is not None
                else "the broker may want a certificate of ours: set cert_file and key_file"
            )
            self._connected.set_exception(MqttError(f"{self._where}: {reason}", hint))
        if self._connected.exception() is None and not self.closed.done():
            self.closed.set_result(reason)
        elif not self.closed.done():
            self.closed.cancel()
        for future in self._subscribed.values():
            if not future.done():
                future.set_exception(MqttError(reason))
        self._subscribed.clear()
