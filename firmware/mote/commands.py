"""Commands of the gateway: [id, name, * argument], each executed once, however often it is sent and whatever happens in between.

An id is written down before its command begins. One that comes again is answered again with its state; one that was cut off by a
reset is answered as failed, but for those whose work the reset is. States: motewire.codes.COMMAND_*. Loaded while there is one to execute.
"""

import json

from micropython import const
from mote import actions, log
from mote.errors import Refused
from mote.files import read_json, write_whole
from mote.health import clipped
from mote.remote import COMMANDS
from motewire import EPOCH_2000

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_COMMAND_ACCEPTED = const(1)
_COMMAND_DONE = const(2)
_COMMAND_EXPIRED = const(4)
_COMMAND_FAILED = const(3)
_COMMAND_REFUSED = const(5)
_STATUS_COMMAND = const(20)

_REMEMBERED = const(8)
_WAITING = const(4)
_DETAIL = const(20)  # bytes: a status frame with it stays within 51 B
_RESTARTING = ("reboot", "factory_reset", "safe_mode")  # done as soon as the next boot says so


class Commands:
    """take() what a downlink brings; run() executes it. control: mote.remote.Remote or Control; a whole node's profile may add
    `commands` {name: coroutine function(args) -> detail text or None}; it may raise mote.errors.Refused."""

    def __init__(self, control):
        self._control, self._node = control, control.node
        self._waiting = []
        kept = read_json(COMMANDS) or {}
        seen = kept.get("seen")
        # [id, name, state, detail], oldest first
        self._seen = [e for e in seen if isinstance(e, list) and len(e) == 4] if isinstance(seen, list) else []

    def boot(self):
        """Say how the commands ended that this boot finds begun. Raises OSError."""
        found = False
        for entry in self._seen:
            if entry[2] == _COMMAND_ACCEPTED:
                found = True
                if entry[1] in _RESTARTING:
                    entry[2] = _COMMAND_DONE
                else:
                    entry[2], entry[3] = _COMMAND_FAILED, "interrupted"
                self._say(entry)
        if found:
            self._store()

    def take(self, command, expiry=None):
        """Take [id, name, * argument] of the right shape; expiry: Unix time, or None. Answers at once. Raises OSError."""
        ident, name = command[0], command[1]
        for entry in self._seen:
            if entry[0] == ident:
                self._say(entry)
                return
        entry = [ident, name, _COMMAND_ACCEPTED, None]
        self._judge(entry, expiry)
        if len(self._waiting) >= _WAITING:
            entry[2], entry[3] = _COMMAND_REFUSED, "busy"
        self._seen.append(entry)
        if len(self._seen) > _REMEMBERED:
            del self._seen[0]
        try:
            self._store()
        except OSError as e:
            if name not in _RESTARTING:  # a full flash must not lock the way out of it
                self._seen.remove(entry)
                raise e
        log.info("command %d %s: state %d", ident, name, entry[2])
        self._say(entry)
        if entry[2] == _COMMAND_ACCEPTED:
            self._waiting.append((entry, command[2:], expiry))

    def _action(self, name):
        if name in actions.ANY:
            return actions.ANY[name], True
        if not self._control.whole:
            return None, True
        if name in actions.WHOLE:
            return actions.WHOLE[name], True
        return self._node.profile.commands.get(name), False

    def _judge(self, entry, expiry):
        """Put into the entry why the command must not begin (now), if so."""
        if self._action(entry[1])[0] is None:
            entry[2], entry[3] = _COMMAND_REFUSED, "unknown"
        elif expiry is not None:
            clock = self._node.clock
            if not clock.quality:
                entry[2], entry[3] = _COMMAND_REFUSED, "no time"
            elif clock.now() + EPOCH_2000 > expiry:
                entry[2] = _COMMAND_EXPIRED

    async def run(self):
        """Execute what waits, one after the other. Raises OSError."""
        while self._waiting:
            entry, args, expiry = self._waiting[0]
            self._judge(entry, expiry)
            if entry[2] == _COMMAND_ACCEPTED:
                await self._execute(entry, args)
            if entry[2] != _COMMAND_ACCEPTED:
                self._store()
                self._say(entry)
            del self._waiting[0]

    async def _execute(self, entry, args):
        action, ours = self._action(entry[1])
        try:
            detail = await (action(self._control, args) if ours else action(args))  # pyright: ignore
        except Refused as e:
            entry[2], entry[3] = _COMMAND_REFUSED, str(e)
        except Exception as e:
            log.error("command %s: %s", entry[1], repr(e))
            entry[2], entry[3] = _COMMAND_FAILED, repr(e)
        else:
            if entry[1] not in _RESTARTING:
                entry[2], entry[3] = _COMMAND_DONE, detail

    def _store(self):
        write_whole(COMMANDS, json.dumps({"seen": self._seen}))

    def _say(self, entry):
        value = [entry[0], entry[2]]
        if entry[3]:
            value.append(clipped(entry[3], _DETAIL))
        self._node.health.send([(_STATUS_COMMAND, value)])
        self._node.uplink.fresh(True)
