"""Removes one guard at a time from a copy of the tree and demands that a test notices. `make guards`.

A promise is only as good as the test that would miss it. Each row: what is removed, where, the text before and after, and the
tests that must then fail. The same tests must pass on the untouched copy. Every row is tried; exit code 1 when a removal goes unnoticed,
2 when a row no longer fits the code or its tests fail without it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console

from tests.guard import Guard
from tests.guards_gateway import GATEWAY

ROOT = Path(__file__).parents[1]


CUTS = ("tests/vm/test_engine.py", "-k", "cuts")
ROT = ("tests/vm/test_engine.py", "-k", "rot-")
FULL = ("tests/vm/test_engine.py", "-k", "full-")
COUNTER = ("tests/vm/mpy/test_engine_counter.py",)
PARTS = ("tests/vm/mpy/test_engine_parts.py", "tests/vm/mpy/test_engine_store.py")
UPLINK = ("tests/vm/test_engine.py", "-k", "uplink")
MEMORY = ("tests/vm/test_engine.py", "-k", "allocates_nothing")
ENGINE = ("tests/gateway/test_store.py",)
STORE = ("tests/gateway/test_store_pipeline.py",)
LANE = ("tests/gateway/test_store_lane.py",)
CARE = ("tests/gateway/test_store_care.py",)
PIPELINE = ("tests/gateway/test_pipeline.py",)
DECIDE = ("tests/gateway/test_decide.py", "tests/gateway/test_replay.py")
TORTURE = ("tests/sim/test_torture.py", "-k", "comes_back")
SLOTS = ("tests/vm/mpy/test_engine_slots.py",)
IMAGES = ("tests/vm/test_slots_image.py", "-k")
WIRE = ("tests/gateway/test_mqtt_wire.py",)
PROCESS = ("tests/gateway/test_process.py", "-k", "sent_again")
LADDER = ("tests/vm/mpy/test_engine_ladder.py",)
BOOTS = ("tests/vm/test_engine_boot.py",)
REMOTE = ("tests/vm/test_engine.py", "-k", "remote")
COMMANDS = ("tests/gateway/test_commands.py",)
RIGHTS = ("tests/gateway/test_command_rights.py",)
CONFIGURATION = ("tests/gateway/test_command_configuration.py",)
OWN_ORDERS = ("tests/gateway/test_own_orders.py",)
ORDERS = ("tests/gateway/test_commands_pipeline.py",)
ULP = ("tests/vm/mpy/test_hal_ulp.py",)
PULSE = ("tests/vm/mpy/test_drivers_pulse.py",)
RULES = ("tests/gateway/test_rules.py",)
SUMS = ("tests/gateway/test_aggregates.py",)

FILTER = ("tests/gateway/test_filter.py",)
FILES = ("tests/gateway/test_files.py",)
HTTP = ("tests/gateway/test_ngsi_http.py",)
REPLAY = ("tests/gateway/test_replay_export.py",)

GUARDS = (
    *GATEWAY,
    Guard("G1", "rows are staged on flash", "firmware/mote/staging.py", "        self._f.write(row)  # pyright", "        # pyright", CUTS),
    Guard("G1", "a staged row is flushed", "firmware/mote/staging.py", "            self._f.flush()\n", "            pass\n", CUTS),
    Guard(
        "G1", "the frame is stored before its staging file goes", "firmware/mote/batcher.py",
        "        self._seal(batch, self._staging.stage, batch.rows)\n        batch.clear()\n",
        "        stage = self._staging.stage\n        self._staging.end()\n        self._seal(batch, stage, batch.rows)\n        batch.clear()\n", CUTS,
    ),
    Guard("G1", "rows already sealed are not sealed again", "firmware/mote/dating.py", "                if f.place <= done:", "                if f.place <= 0:", CUTS),
    Guard("G1", "a torn or rotten staged row is not believed", "firmware/mote/staging.py", "            if crc16(buf, n) == buf[n] << 8 | buf[n + 1]:\n", "            if True:\n", (*PARTS, *CUTS[:1], "-k", "cuts or rot or torn or damaged or stag")),
    Guard("G1", "a stored frame is flushed", "firmware/mote/outbox.py", "        f.flush()\n        return segment", "        return segment", CUTS),
    Guard("G1", "a frame that rots on flash is noticed", "firmware/mote/outbox.py", "        if got != size or len(tail) != 4 or crc32(view, crc32(head)) != unpack_from(\">I\", tail)[0]:\n            raise Corrupt\n", "", PARTS),
    Guard("G1", "an ack drops only what it covers", "firmware/mote/outbox.py", "            if ack.covers(c):", "            if c < ack.next:", PARTS),
    Guard("G1", "alarms are not evicted before bulk", "firmware/mote/leaving.py", "        if outbox.kinds[i] != ALARM:\n            victim = i\n            break\n", "        break\n", PARTS),
    Guard("G1", "the gateway answers only what it committed", "gateway/commit.py", "            if error is None:\n                self._guarded(self.answer, w)", "            if True:\n                self._guarded(self.answer, w)", PIPELINE),
    Guard("G1", "a failed commit is forgotten", "gateway/pipeline.py", "        self._states.forget()\n        self._intake.forget()\n", "", PIPELINE),
    Guard("G1", "what was in flight is sent again after a reconnect", "gateway/outputs/track.py", "        self.sent = self.cursor\n        self._open.clear()", "        self._open.clear()", PROCESS),
    Guard("G1", "a backlog behind an alarm gets in", "gateway/core/replay.py", "WINDOW = 16384", "WINDOW = 256", DECIDE),
    Guard("G2", "a block of counters is reserved ahead", "firmware/mote/counter.py", "            self._store.put(c + BLOCK)\n", "            self._store.put(c)\n", COUNTER),
    Guard("G2", "a lost counter refuses to seal", "firmware/mote/counter.py", '            raise NeedsKey("no counter")', "            ceiling = 1", COUNTER),
    Guard("G2", "another key's counter is not believed", "firmware/mote/twice.py", " or data[:4] != self._mark", "", COUNTER),
    Guard("G3", "the tag decides", "gateway/core/receive.py", "        if payload is not None:\n            return counter, payload\n", "        return counter, payload or b\"\"\n", DECIDE),
    Guard("G3", "a counter is accepted once", "gateway/core/replay.py", "        if i is None:\n            return None\n", "        if i is None:\n            return self\n", DECIDE),
    Guard("G3", "a frame of another key epoch is refused", "gateway/core/receive.py", "    if header.slot != node.epoch & 3:\n        return Refusal(\"wrong_epoch\", node.id)\n", "", DECIDE),
    Guard("G3", "the node checks the tag", "firmware/motewire/ccm.py", "        if diff:\n", "        if diff > 255:\n", ("tests/wire/test_ccm.py",)),
    Guard("G3", "the node refuses a replayed downlink", "firmware/mote/downlink.py", "        self._floor = floor\n        if store:", "        if store:", UPLINK),
    Guard("G3", "a downlink floor survives a power cut", "firmware/mote/downlink.py", "            self._store.put(floor)", "            pass", UPLINK),
    Guard("G1", "a frame from below the floor is answered", "gateway/core/decide.py", "event, refusal, Answer(down, ack, False))", "event, refusal, None)", DECIDE),
    Guard("G1", "keys change when nothing waits", "firmware/mote/app.py", "        if identity.pending is None or self.outbox.depth:\n", "        if identity.pending is None:\n", UPLINK),
    Guard("G2", "a change of keys that was cut is gone on with", "firmware/mote/identity.py", "        if kept is not None and before is not None and self._behind(key, epoch, kept, before):\n", "        if False:\n", COUNTER),
    Guard("G2", "the epoch follows the counters", "firmware/mote/identity.py", "        nvs.put_blob(\"key\", kept[0])\n        Twice", "        nvs.put(\"epoch\", kept[1])\n        nvs.put_blob(\"key\", kept[0])\n        Twice", COUNTER),
    Guard("G2", "a key that was given up is not believed", "firmware/mote/identity.py", '            raise NeedsKey("an older key")\n', "            kept = key, epoch\n", COUNTER),
    Guard("G3", "the old key is over once the new one is proven", "gateway/core/model.py", "        return after if after is not None and after.epoch == epoch else self\n", "        return self\n", DECIDE),
    Guard("G3", "text is well-formed UTF-8 on the node too", "firmware/motewire/cbor.py", "            if not _is_utf8(self.buf, at, at + n):", "            if False:", ("tests/wire/test_cbor.py",)),
    Guard("G1", "frames of a key that is gone are not sent for ever", "firmware/mote/uplink.py", "            if not self._ours(self._buf):", "            if False:", UPLINK),
    Guard("G5", "the node's duty ledger refuses", "firmware/mote/links/lora_link.py", "            self.duty.spend(self._bands.index(sub_band(khz)), need)\n", "", ("tests/vm/mpy/test_engine_link.py",)),
    Guard("G6", "a row allocates nothing", "firmware/motewire/batch.py", "            self._values[at + c] = v\n", "            self._values[at + c] = [v][0]\n", MEMORY),
    Guard("G6", "encoding allocates nothing", "firmware/motewire/batch.py", "                    bits.put_eg(6, zigzag(v))\n", "                    bits.put_eg(*(6, zigzag(v)))\n", MEMORY),
    Guard("G4", "the crash counter stands before set-up", "firmware/mote/ladder.py", "        buf[CRASHES] = min(s.rung + 1, _MOST)\n", "        pass\n", LADDER),
    Guard("G4", "every sensor gets its turn at being left out", "firmware/mote/ladder.py", "- 1 + s.rung - PATIENCE) % sensors", "- 1) % sensors", LADDER),
    Guard("G4", "ten minutes of work do not clear the counter", "firmware/mote/supervisor.py", "_DECAY_S = const(21600)", "_DECAY_S = const(600)", LADDER),
    Guard("G4", "a trial that fails goes back to what held", "firmware/mote/ladder.py", "        s.rung = buf[CRASHES]\n        s.level = _LADDER_NORMAL\n", "        s.rung = buf[CRASHES] = 0\n        s.level = _LADDER_NORMAL\n", LADDER),
    Guard("G4", "brown-outs count", "firmware/mote/ladder.py", "        if starts >= _BROWN_OUTS:\n", "        if False:\n", LADDER),
    Guard("G4", "a MemoryError is put to the account of who keeps the memory", "firmware/mote/supervisor.py", "        rtc.buf[ENTERED] = suspect\n", "        pass\n", LADDER),
    Guard("G4", "the watchdog is fed by progress only", "firmware/mote/tasks.py", '                log.error("%s stands still", name)\n                return\n', '                log.error("%s stands still", name)\n', ("tests/vm/mpy/test_engine_link.py",)),
    Guard("G4", "ctrl-C in the field is a reset", "firmware/mote/supervisor.py", "        if isinstance(error, KeyboardInterrupt) and repl:\n", "        if isinstance(error, KeyboardInterrupt):\n", LADDER),
    Guard("G4", "ctrl-C is not even seen", "firmware/mote/supervisor.py", "    micropython.kbd_intr(-1)  #", "    pass  #", LADDER),
    Guard("G4", "main catches ctrl-C", "firmware/main.py", "except (KeyboardInterrupt, Exception) as error:", "except Exception as error:", BOOTS),
    Guard("G4", "a node that cannot be built is a safe one", "firmware/mote/start.py", "    if isinstance(error, (LowSupply, NeedsKey)) or supervisor.level < _LADDER_ALL:\n        raise error\n", "    raise error\n", BOOTS),
    Guard("G4", "three failed boots give a new configuration up", "firmware/mote/settings.py", "    if c.probation and _count(c.rtc, c.nvs) >= _TRIES:\n", "    if False:\n", BOOTS),
    Guard("G4", "power cuts count against a new configuration, too", "firmware/mote/settings.py", '        nvs.put("tries", min(before + 1, 99))\n', "        pass\n", BOOTS),
    Guard("G4", "a configuration without an answer is given up", "firmware/mote/remote.py", '        elif config.overdue() and config.give_up(getattr(self.node.link, "trouble", "") or "no answer"):\n', "        elif False:\n", REMOTE),
    Guard("G4", "a planned restart is no crash", "firmware/mote/supervisor.py", "        buf[CRASHES] = min(buf[CRASHES], rung)\n", "        pass\n", LADDER),
    Guard("G3", "a command is executed once", "firmware/mote/commands.py", "            if entry[0] == ident:\n", "            if False:\n", REMOTE),
    Guard("G3", "a command is written down before it begins", "firmware/mote/commands.py", "        try:\n            self._store()\n        except OSError as e:\n", "        try:\n            pass\n        except OSError as e:\n", REMOTE),
    Guard("G3", "an expired command is refused", "firmware/mote/commands.py", "            elif clock.now() + EPOCH_2000 > expiry:\n", "            elif False:\n", REMOTE),
    Guard("G3", "a configuration is judged before it is stored", "firmware/mote/config.py", "        judge(values)\n", "", REMOTE),
    Guard("G1", "an ack with a malformed bitmap is dropped whole", "firmware/mote/downlink.py", "                whole_ack = False  #", "                pass  #", REMOTE),
    Guard("G1", "a planned restart seals what is open", "firmware/mote/remote.py", "        self.node.batcher.close()\n", "        pass\n", REMOTE),
    Guard("G1", "a row of a nap is what the node would have made", "firmware/mote/nap.py", "    flow = ((volume - image[meter + _FLOW_VOLUME]) * 360 + row_s // 2) // row_s\n", "    flow = 0\n", ("tests/vm/test_engine_meter.py", "-k", "behind")),
    Guard("G1", "rows of naps that one frame does not take are sealed in several", "firmware/mote/rest.py", "        if batcher.tried < batch.rows and batch.rows > 1 and not batcher._fits(batch):\n", "        if False:\n", ("tests/vm/test_engine_meter.py", "-k", "several")),
    Guard("G3", "a burst wakes a meter that sleeps", "firmware/mote/profiles/water_meter.py", "            meter.wake_at(max(1, min(ahead, _MOST_PULSES)))\n", "            meter.wake_at(_MOST_PULSES)\n", ("tests/vm/test_engine_meter.py", "-k", "within_seconds")),
    Guard("G3", "a rule that the counter cannot judge is looked at every sample", "firmware/mote/rest.py", "            if rule.active or rule.run or rule.column != column or not rule.up:\n", "            if False:\n", ("tests/vm/test_engine_meter.py", "-k", "cannot_judge")),
    Guard("G4", "a low supply, a technician and a used image end the nap", "firmware/mote/nap.py", "            if buf[LOW] & 1 or _NOT_THERE_MV <= mv < least_mv + _RELEASE_MV:\n                return\n", "", ("tests/vm/test_engine_meter.py", "-k", "supply")),
    Guard("G4", "no count ends the pause of a crash loop", "firmware/mote/hal/reset.py", "            machine.mem32[_TARGET] = machine.mem32[_EDGES] + 0x7FFF & 0xFFFF\n", "", ULP),
    Guard("G1", "a level counts only after samples in a row", "firmware/mote/hal/ulp.py", "    a.jump_below(samples, 4)", "    a.jump_below(1, 4)", ULP),
    Guard("G1", "a carry that is due is counted", "firmware/mote/hal/ulp_run.py", "        high += (low >> 15 ^ high) & 1\n", "", ULP),
    Guard("G1", "a counter after power-on begins anew", "firmware/mote/hal/ulp.py", "machine.reset_cause() == machine.PWRON_RESET or not _loaded(code)", "not _loaded(code)", ULP),
    Guard("G1", "another program is not taken for ours", "firmware/mote/hal/ulp.py", "machine.PWRON_RESET or not _loaded(code)", "machine.PWRON_RESET", ULP),
    Guard("G1", "a running count is never loaded over", "firmware/mote/hal/ulp.py", "        if self.fresh:\n", "        if True:\n", ULP),
    Guard("G1", "the counter lives on in deep sleep", "firmware/mote/hal/ulp_run.py", "        wake_on_ulp(True)", "        wake_on_ulp(False)", ULP),
    Guard("G1", "what stands on the pin at the start is no pulse", "firmware/mote/hal/ulp.py", "    words[4 * _EDGES] = 2 - level", "    words[4 * _EDGES] = 2", ULP),
    Guard("G1", "a total is not continued from another counting", "firmware/mote/drivers/pulse.py", '        if getattr(counter, "fresh", True) or seen // self._modulus != counter.life:\n', '        if getattr(counter, "fresh", True):\n', PULSE),
    Guard("G1", "a counter that begins anew is not continued", "firmware/mote/drivers/pulse.py", '        if getattr(counter, "fresh", True) or seen // self._modulus != counter.life:\n', '        if seen // self._modulus != getattr(counter, "life", -1):\n', PULSE),
    Guard("G4", "power that goes in deep sleep ends it", "host_sim/fleet.py", "            if cut.at <= t and cut.back > now:\n", "            if cut.at <= t < cut.back:\n", ("tests/sim/test_fleet.py", "-k", "deep_sleep")),
    Guard("G1", "a reading persisted with two values counts as lost", "host_sim/truth.py", "        return gone + [k for k in set(self.clashes) if delivered.get(k) == self.readings[k]]\n", "        return gone\n", ("tests/sim/test_expect.py", "-k", "two_values")),
    Guard("G4", "what a node leaves out must be what was expected", "host_sim/expect.py", "            if left_out != sorted(shed):\n", "            if not left_out and shed:\n", ("tests/sim/test_expect.py",)),
    Guard("G6", "erases of every boot count", "host_sim/node.py", "            self.stats.erases += n - self._erased\n", "            self.stats.erases = n\n", ("tests/sim/test_fleet.py", "-k", "erases")),
    Guard("G6", "what only building needs is forgotten", "firmware/mote/start.py", "    lean(node)\n", "", ("tests/vm/test_heap_32bit.py", "-k", "air_quality-lora")),
    Guard("G6", "a configuration without room is refused aloud", "firmware/mote/remote.py", "            self.node.health.send([(_STATUS_PROBLEM, why)])\n", "            pass\n", ("tests/sim/test_commands.py", "-k", "no_room")),
    Guard("G9", "a client hears what it subscribed to", "host_sim/broker.py", "            if any(subscriber.client_id == session.client_id for subscriber, _qos in own):\n", "            if True:\n", ("tests/sim/test_broker.py",)),
    Guard("G9", "a start waits for the link", "host_sim/gateway_process.py", "                self._process.linked(link)\n", "                pass\n", ("tests/sim/test_runner.py", "-k", "started_when")),
    Guard("G1", "a record that rotted is not believed at start", "firmware/mote/outbox.py", "if len(frame) < size + 4 or crc32(frame[:size], crc32(head)) != unpack_from(\">I\", frame, size)[0]:\n", "if len(frame) < size + 4:\n", PARTS),
    Guard("G1", "a stored frame is flushed (the torture sees it)", "firmware/mote/outbox.py", "        f.flush()\n        return segment", "        return segment", TORTURE),
    Guard("G2", "a block of counters is reserved before its first is used (the torture sees it)", "firmware/mote/counter.py", "            self._store.put(c + BLOCK)\n", "", TORTURE),
    Guard("G4", "a write that fails late leaves the next session alone", "firmware/mote/links/wifi_link.py", "            if self._mqtt is mqtt:  # there may be the next session already\n", "            if True:\n", ("tests/vm/mpy/test_engine_mqtt.py", "-k", "fails_late")),
    Guard("G4", "a configuration that cannot work is repaired where there is no good one", "firmware/mote/settings.py", "        _make_do(c)\n", "        raise why or BadConfig(c.path)\n", ("tests/vm/test_engine_config.py", "-k", "row_s")),
    Guard("G4", "a link that cannot be built ends no node", "firmware/mote/links/__init__.py", '        return borrow("mote.links.absent", "instead", config, board, rtc, nvs, e)\n', "        raise e\n", ("tests/vm/test_engine_config.py", "-k", "without_a_radio")),
    Guard("G4", "a broken configuration falls back to the last that reached the gateway", "firmware/mote/settings.py", "    raw = why = None\n    for path in (c.path, c.good, c.factory):\n", "    raw = why = None\n    for path in (c.path, c.factory):\n", ("tests/vm/mpy/test_engine_rules.py", "-k", "broken_configuration")),
    Guard("G4", "a boot on trial is counted down", "firmware/slotboot.py", "_kept(proven, trying, tries - 1)", "_kept(proven, trying, tries)", TORTURE),
    Guard("G4", "a trial ends when its tries are used up", "firmware/slotboot.py", "(asleep or tries and _kept", "(asleep or _kept", SLOTS),
    Guard("G4", "a slot state that does not check is not believed", "firmware/slotboot.py", " or crc32(d[:7]) != int.from_bytes(d[7:], \"big\")", "", SLOTS),
    Guard("G4", "a proof that was cut half-way counts", "firmware/slotboot.py", " or now[1] and now[1] == sure:", ":", SLOTS),
    Guard("G4", "a slot that changed after its check is not run", "firmware/slotboot.py", " and found[:4] == crc(\"/\" + slot + \"/manifest.json\").to_bytes(4, \"big\")", "", SLOTS),
    Guard("G4", "an update that hangs on import is bitten", "firmware/slotboot.py", "            _guard()\n", "", ("tests/vm/test_slots_boot.py",)),
    Guard("G4", "an image whose hash differs is not mounted", "firmware/slotboot.py", "            raise OSError(\"SHA-256 differs\")\n", "            pass\n", (*IMAGES, "one_byte")),
    Guard("G4", "what the port mounts unasked is not imported", "firmware/slotboot.py", "    _leave_ports_mount()\n    proven", "    proven", (*IMAGES, "unasked")),
    Guard("G4", "a slot that is written is no longer staged", "firmware/slotwork.py", "        _unmark(\"/\" + slot)  # before the first erase\n", "", (*IMAGES, "goes_anywhere")),
    Guard("G4", "the slot that took over for a rotten one is proven by an answer", "firmware/slots.py", "    if trial or stray:\n", "    if trial:\n", (*IMAGES, "took_over")),
    Guard("G4", "what a slot holds is the image that was sent", "firmware/slotwork.py", "    if not slotboot.whole(slotboot.half(slot), size, sha256):\n", "    if size < 0:\n", (*IMAGES, "refused_for")),
    Guard("G4", "a board without an application waits for a technician and sleeps", "firmware/main.py", "        if slots is not None and slots.problem:\n", "        if slots is None:\n", (*IMAGES, "without_any")),
    Guard("G6", "a fleet's nodes have what the board leaves less the radio driver", "host_sim/provision.py", " - radio_driver(group.link, way(group))", "", ("tests/sim/test_scenario.py", "-k", "what_the_board_leaves")),
    Guard("G4", "an application that ends is no way to the REPL", "firmware/main.py", "    raise RuntimeError(\"main ended\")\n", "", ("tests/vm/test_slots_boot.py",)),
    Guard("G1", "a record with one wrong bit in its head is put right", "firmware/mote/rotten.py", "    if head is not None:\n        try:\n            if _write", "    if False:\n        try:\n            if _write", ROT),
    Guard("G1", "what stands behind a record that rotted is found", "firmware/mote/rotten.py", "        at = data.find(bytes((_MAGIC,)), at + 1)\n", "        return len(data)\n", ROT),
    Guard("G1", "rows of a record that rotted are counted", "firmware/mote/rotten.py", "        outbox.rows_lost += rows\n        outbox._on_lost(rows)\n", "        pass\n", ROT),
    Guard("G1", "they are counted once", "firmware/mote/rotten.py", "    if not _marked(data[at : at + _HEAD]):\n", "    if True:\n", ROT),
    Guard("G1", "a record that the power cut is no damage", "firmware/mote/rotten.py", "    if head[0] == _MAGIC and end > size == following:\n", "    if False:\n", ROT),
    Guard("G1", "nothing is appended to a segment with a torn end", "firmware/mote/outbox.py", "(segment, None) if whole else None", "(segment, None)", ROT),
    Guard("G1", "rows that are staged still are not lost with their frame", "firmware/mote/rotten.py", "        if stage in waiting:\n", "        if False:\n", ROT),
    Guard("G1", "a staging file with one wrong bit in its head is put right", "firmware/mote/rotten.py", "    for bit in range(8 * (_STAGED + 2 * head[2] + 2)):\n", "    for bit in ():\n", ROT),
    Guard("G1", "rows of a staging file that cannot be read are counted", "firmware/mote/rotten.py", "    return max(0, size - len(staging._head)) // len(staging._buf)\n", "    return 0\n", ROT),
    Guard("G1", "a staged row that rotted is counted", "firmware/mote/dating.py", "        lost = max(0, f.place - done) - rows\n", "        lost = 0\n", ROT),
    Guard("G1", "a start finds room for the rows in RTC memory, or counts them", "firmware/mote/held.py", "                outbox._on_lost(rows)\n", "                pass\n", FULL),
    Guard("G1", "a row that staging refuses is tried in a file of its own", "firmware/mote/refused.py", "    borrow(\"mote.leaving\", \"with_room\", batcher._outbox, _add, batcher._staging, t, values, present)\n", "    raise OSError(28)\n", FULL),
    Guard("G1", "rows that have no room to be left are counted", "firmware/mote/refused.py", "            batcher._lost(rows - kept)\n", "            pass\n", FULL),
    Guard("G1", "rows without a time keep their order over a cut", "firmware/mote/dating.py", "    for cycle, stage in parked:\n", "    for cycle, stage in reversed(parked):\n", ("tests/vm/test_engine.py", "-k", "undated")),
    Guard("G2", "the image of a sleep is believed once", "firmware/mote/hal/rtc.py", "            self.buf[_ASLEEP] = 0\n            self.save()\n", "            pass\n", ("tests/vm/test_engine_sleep.py", "-k", "believed_once")),
    Guard("G1", "rows held in RTC memory outlive a reset", "firmware/mote/held.py", "                self.park()\n            except OSError as e:", "                self._section = bytearray()\n            except OSError as e:", ("tests/vm/test_engine_sleep.py", "-k", "rows_in_rtc")),
    Guard("G1", "a low supply writes no flash", "firmware/mote/power.py", "            raise LowSupply(\"%d mV\" % mv)\n", "            return\n", ("tests/vm/test_engine_sleep.py", "-k", "supply")),
    Guard("G1", "rows without a time are kept for it", "firmware/mote/batcher.py", "            self._staging.park()\n            batch.clear()\n", "            self._staging.end()\n            batch.clear()\n", ("tests/vm/test_engine.py", "-k", "undated")),
    Guard("G4", "crashes are forgotten over sleeps, too", "firmware/mote/supervisor.py", "    good_s = get()\n    _credit(slept_s)\n", "    good_s = get() + slept_s\n", LADDER),
    Guard("G5", "a sleeping node does not tell an alarm at every wake", "firmware/mote/alarms.py", "                rule.told, rule.told_t = get(), get() & 0xFFFFFFFF\n", "                get(), get()\n", ("tests/vm/mpy/test_engine_rules.py",)),
    Guard("G5", "which of several rules of one place is up is in the image", "firmware/mote/alarms.py", "            rule.run, rule.active = run >> 1, bool(run & 1)\n", "            rule.run = run >> 1\n", ("tests/vm/mpy/test_engine_rules.py", "-k", "told_once_each")),
    Guard("G1", "a part of the image that reads more or less than it wrote is noticed", "firmware/mote/sleeper.py", "            if at + 1 != end:\n", "            if False:\n", ("tests/vm/test_engine.py", "-k", "image-a_part")),
    Guard("G1", "the image of another rung of the ladder is not believed", "firmware/mote/sleeper.py", "        supervisor.level,  # what is left out", "        0,  # what is left out", ("tests/vm/test_engine.py", "-k", "image-an_image")),
    Guard("G1", "rows that RTC memory did not keep over a sleep are counted", "firmware/mote/batcher.py", "        if self._batch.rows < self.tried:", "        if False:", ("tests/vm/test_engine.py", "-k", "image-rows")),
    Guard("G5", "an alarm that was thinned out stays so over a power cut", "firmware/mote/app.py", "        if gone:\n            borrow(\"mote.leaving\", \"void\", self.outbox, gone)\n", "", ("tests/vm/test_engine.py", "-k", "alarms-alarms_that_were")),
    Guard("G5", "what was dropped is no frame at the next start", "firmware/mote/outbox.py", "if not dropped and not self._knows", "if not self._knows", ("tests/vm/test_engine.py", "-k", "cuts-what_was or cuts-rows_of")),
    Guard("G5", "the newest alarm is dropped once its successor is stored", "firmware/mote/leaving.py", "        gone.append(_leave(outbox, newest))\n", "        gone.append(_leave(outbox, newest))\n        void(outbox, gone)\n", ("tests/vm/test_engine.py", "-k", "cuts-what_was")),
    Guard("G1", "a mark goes into a file that is open for nothing else", "firmware/mote/leaving.py", "                outbox._open[alarm] = (segment, None)\n            try:", "                pass\n            try:", ("tests/vm/test_engine.py", "-k", "cuts-what_was")),
    Guard("G5", "limits that were up under another profile are ended", "firmware/mote/former.py", "    if limits.former & 0x7FFF:", "    if False:", ("tests/vm/test_engine.py", "-k", "alarms-what_is_up")),
    Guard("G5", "faults that were up under another profile are ended", "firmware/mote/former.py", "    if faults.former & 0x7FFF:", "    if False:", ("tests/vm/test_engine.py", "-k", "alarms-what_is_up")),
    Guard("G5", "the marks of another profile go once all of it is ended", "firmware/mote/former.py", "        ids = _ids(limits.former)\n", "        ids = _ids(limits.former)\n        limits.keep()\n", ("tests/vm/test_engine.py", "-k", "alarms-what_is_up or alarms-the_end")),
    Guard("G5", "the fault of a sensor that was taken out is ended", "firmware/mote/former.py", "            if faults.has(c) and c not in read:", "            if False:", ("tests/vm/test_engine.py", "-k", "alarms-what_a_rule")),
    Guard("G5", "what has no rule is ended though nothing is read", "firmware/mote/former.py", "    node.alarms.end(t)\n", "", ("tests/vm/test_engine.py", "-k", "alarms-what_a_rule")),
    Guard("G5", "a leak is ended under another profile", "firmware/mote/former.py", "    if (nvs.get(\"leak\") or 0) & 1 and", "    if False and", ("tests/vm/test_engine.py", "-k", "alarms-a_leak")),
    Guard("G4", "a wake judges a configuration that is not the proven one", "firmware/mote/config.py", "            if mark != mark_of(text, self.path, self.good):\n                return False\n", "", ("tests/vm/mpy/test_engine_parts.py",)),
    Guard("G4", "a start judges anew, for this wake and those behind it", "firmware/mote/settings.py", "    _forget_values(c)\n", "", ("tests/vm/mpy/test_engine_parts.py",)),
    Guard("G10", "a planned stuck BUSY is met before a reset ends it", "host_sim/vm/sim_radio.py", "if found is not None and found[0] in _seen and", "if found is not None and", ("tests/vm/mpy/test_standins_lora.py", "-k", "stuck_busy")),
    Guard("G10", "a key that no node knows is refused in a scenario", "host_sim/scenario_checks.py", "        if key not in KEYS:\n", "        if False:\n", ("tests/sim/test_scenario.py",)),
    Guard("G10", "a refusal names its table on the screen, too", "tools/boards.py", "console.print(f\"refused: {text}\", soft_wrap=True, markup=False)", "console.print(f\"refused: {text}\", soft_wrap=True)", ("tests/tools/test_boards.py",)),
    Guard("G4", "rules of another profile are judged with it", "firmware/mote/change.py", "            _rules_of_another(open_profile(values[\"profile\"]), values)\n", "", ("tests/vm/test_engine.py", "-k", "remote-another_profile")),
    Guard("G4", "the gateway refuses rules that a profile cannot have", "gateway/core/orders.py", " or foreign(args)", "", ("tests/gateway/test_orders.py",)),
    Guard("G1", "rows out of turn within a second are told apart", "firmware/mote/actions.py", "    if 0 <= sampler._aside_t - t < _LATE_S:\n", "    if False:\n", ("tests/vm/test_engine.py", "-k", "remote-rows_that")),
    Guard("G1", "a row out of turn has no time of the future", "firmware/mote/actions.py", "    if t > now:\n        await", "    if False:\n        await", ("tests/vm/test_engine.py", "-k", "remote-rows_that")),
    Guard("G1", "an answer to a frame of before the power cut dates no row by its age", "firmware/mote/app.py", " and s._boot_frames and self.outbox.index_of(s.counter - s._boot_frames + 1) < 0:", ":", ("tests/vm/test_engine.py", "-k", "undated-an_answer")),
    Guard("G1", "a row after a step back is not dropped", "firmware/mote/sampler.py", "            t += self._lap\n", "            return\n", ("tests/vm/test_engine.py", "-k", "steps-")),
    Guard("G1", "rows after a step back are told apart from those before it", "firmware/mote/sampler.py", "            t += self._lap\n", "            pass\n", ("tests/vm/test_engine.py", "-k", "steps-")),
    Guard("G1", "samples before a step go on into a row", "firmware/mote/sampler.py", "            if not self._stepped:\n", "            if True:\n", ("tests/vm/test_engine.py", "-k", "steps-")),
    Guard("G8", "a value that a row cannot hold is a fault", "firmware/mote/sampler.py", "                self._sink.fault(s, slot, beyond != 0)\n", "                pass\n", ("tests/vm/test_engine_meter.py", "-k", "outgrows")),
    Guard("G8", "a value that a row cannot hold is reported once over sleeps", "firmware/mote/sampler.py", "            s.works, s.beyond = bool(works & 1), works >> 1\n", "            s.works = bool(works & 1)\n", ("tests/vm/test_engine_meter.py", "-k", "outgrows")),
    Guard("G3", "a slow clock is rounded as a fast one", "firmware/mote/hal/clock.py", "        return -won(seconds, -ppm)\n", "        pass\n", ("tests/vm/mpy/test_engine_clock.py", "-k", "never_none")),
    Guard("G3", "no sleep is for ever", "firmware/mote/hal/reset.py", "    machine.deepsleep(max(1, ms))", "    machine.deepsleep(ms)", ("tests/vm/mpy/test_engine_clock.py", "-k", "never_none")),
    Guard("G1", "a packet that did not leave whole ends the session", "firmware/mote/links/mqtt.py", "                self._torn = True\n", "                pass\n", ("tests/vm/mpy/test_engine_mqtt.py", "-k", "leave_whole")),
    Guard("G8", "a change that takes effect at once ends no waiting for a restart", "firmware/mote/change.py", "        _restart(control)\n        return\n", "        _restart(control)\n        return\n    node.config.waits = False\n", ("tests/vm/test_engine.py", "-k", "proves_nothing")),
    Guard("G8", "what is not in effect yet is not proven by an answer", "firmware/mote/config.py", " and not self.waits:\n", ":\n", ("tests/vm/test_engine.py", "-k", "proves_nothing")),
    Guard("G10", "a run names nodes in trouble", "host_sim/expect.py", "            found.append(f\"{node}: left out {', '.join(left_out)}\")\n", "            pass\n", ("tests/sim/test_expect.py", "-k", "in_trouble")),
    Guard("G1", "an event after a step back has its own time", "firmware/mote/sampler.py", "            self._last_t += step_s\n", "            pass\n", ("tests/vm/test_engine.py", "-k", "steps-")),
    Guard("G3", "a jump of more than a day needs a second witness", "firmware/mote/clock.py", "        elif not self._believed(raw, t, error):\n", "        elif False:\n", ("tests/vm/mpy/test_engine_clock.py",)),
    Guard("G1", "drift needs two stretches of time that agree", "firmware/mote/clock.py", "            self._kind, self._doubt, self._since = _DRIFT, ppm, min(passed >> 6, 0xFFFF)\n", "            self.drift_ppm = ppm\n", ("tests/vm/mpy/test_engine_clock.py",)),
    Guard("G1", "drift is bounded by the oscillator", "firmware/mote/clock.py", " or not -room <= won <= room:\n", ":\n", ("tests/vm/mpy/test_engine_clock.py",)),
    Guard("G1", "the time is asked for early where an RC oscillator counts", "firmware/mote/clock.py", "        return max(0, _ASKS_S[self._asks] - raw + self._ref)\n", "        return 1 << 28\n", ("tests/vm/mpy/test_engine_clock.py",)),
    Guard("G5", "a rule without a clear has a distance", "firmware/mote/rules.py", '_back(row, spec["above" if up else "below"], up)', 'spec["above" if up else "below"]', ("tests/vm/mpy/test_engine_rules.py",)),
    Guard("G5", "an alarm ends where the value can get to", "firmware/mote/rules.py", "    return limit - min(back, max(0, limit - q[5]) / 2) if up else", "    return limit - back if up else", ("tests/vm/mpy/test_engine_rules.py",)),
    Guard("G5", "between two changes of an alarm lies a least time", "firmware/mote/alarms.py", "            if self.run < self.hold or self.changed_t and 0 <= t - self.changed_t < self.least_s:\n", "            if self.run < self.hold:\n", ("tests/vm/mpy/test_engine_rules.py",)),
    Guard("G1", "alarms of an outage push no rows out", "firmware/mote/leaving.py", "        if found < _FLAPPING:\n", "        if True:\n", ("tests/vm/test_engine.py", "-k", "alarms-")),
    Guard("G5", "what has no rule after a restart is cleared", "firmware/mote/alarms.py", "                    self._gone.append((ids[bit >> 1], bit, None))\n", "                    pass\n", ("tests/vm/mpy/test_engine_rules.py",)),
    Guard("G5", "a clear leaves the other alarms of its quantity up", "firmware/mote/app.py", "        self.alarms.say_again(t, quantity)\n", "", ("tests/vm/test_engine.py", "-k", "alarms-a_clear or profiles-a_leak_and")),
    Guard("G5", "a clear leaves what the profile raised up", "firmware/mote/app.py", "        self.profile.say_again(t, quantity)\n", "", ("tests/vm/test_engine.py", "-k", "profiles-a_leak_and")),
    Guard("G5", "a clear by a rule leaves a sensor's fault up", "firmware/mote/app.py", "            if tag >> 6 and self.ids[n] == quantity", "            if False and self.ids[n] == quantity", ("tests/vm/test_engine.py", "-k", "alarms-a_clear")),
    Guard("G5", "a clear is stored before its mark goes", "firmware/mote/alarms.py", "            self._raised(_ALARM_CLEARED, t, quantity, None, limit, tag_of(quantity, bit & 1))\n            self._keep(bit)\n", "            self._keep(bit)\n            self._raised(_ALARM_CLEARED, t, quantity, None, limit, tag_of(quantity, bit & 1))\n", ("tests/vm/mpy/test_engine_rules.py", "-k", "is_stored")),
    Guard("G5", "an alarm that the power cut off from its mark is ended", "firmware/mote/alarms.py", "            if marked or waits(", "            if marked or False and waits(", ("tests/vm/test_engine.py", "-k", "alarms-an_alarm_that_was")),
    Guard("G5", "a fault is marked before it is stored", "firmware/mote/app.py", "            self._faults.set(n, True)\n            self.raise_alarm(_ALARM_FAULT, t, quantity, None, None, _FAULT | quantity & 63)\n", "            self.raise_alarm(_ALARM_FAULT, t, quantity, None, None, _FAULT | quantity & 63)\n            self._faults.set(n, True)\n", ("tests/vm/test_engine.py", "-k", "alarms-a_fault_that")),
    Guard("G5", "frames that wait are thinned by quantity and direction", "firmware/mote/alarms.py", "    return quantity & 63 | (192 if up else 128)\n", "    return 128\n", ("tests/vm/test_engine.py", "-k", "alarms-frames_that_wait")),
    Guard("G5", "a leak of more hours than are remembered is found", "firmware/mote/profiles/water_meter.py", 'min(leak.get("hours", 24), _MOST_HOURS)', 'leak.get("hours", 24)', ("tests/vm/test_engine.py", "-k", "profiles-a_leak_of_more")),
    Guard("G5", "a new rule with a misspelt key is refused", "firmware/mote/change.py", '            borrow("mote.rules", "known", values["alarms"])\n        if values', "            pass\n        if values", ("tests/vm/test_engine.py", "-k", "remote-a_new_rule")),
    Guard("G1", "a restart within a step back repeats no time", "firmware/mote/app.py", '            0 if self.events else nvs.get("laps") or 0,\n', "", ("tests/vm/test_engine.py", "-k", "steps-a_restart")),
    Guard("G1", "a clock set back while the power was off repeats no time", "firmware/mote/dating.py", "    return t + (1 << _MARK_SHIFT) + node.config[\"report_s\"] if now < t else 0\n", "    return 0\n", ("tests/vm/test_engine.py", "-k", "steps-a_gateway_that_is_set")),
    Guard("G1", "a reset takes no clock back", "firmware/mote/clock.py", "(self._slew if asleep or self._slew > 0 else 0)", "self._slew", ("tests/vm/test_engine.py", "-k", "steps-a_reset_while")),
    Guard("G1", "a register in a reading out of turn is kept first", "firmware/mote/actions.py", "    return sampler._profile.aside(row, present)\n", "    return sampler._profile.derive(row, present)\n", ("tests/vm/test_engine.py", "-k", "meter-no_register")),
    Guard("G1", "a counter is looked at between samples", "firmware/mote/app.py", "            self.supervisor.checks.append(self.profile.poll)\n", "            pass\n", ("tests/vm/test_engine.py", "-k", "meter-no_pulse")),
    Guard("G1", "a register in an alarm is kept first", "firmware/mote/app.py", "        self.profile.keep()\n", "", ("tests/vm/test_engine.py", "-k", "meter-no_register")),
    Guard("G5", "a flow is measured over what its pulses need", "firmware/mote/drivers/pulse.py", " and (pulses >= self.enough or ms >= self.fine_ms)\n", "\n", ("tests/vm/test_engine.py", "-k", "meter-a_constant")),
    Guard("G5", "the pulse that began before is not of this flow", "firmware/mote/drivers/pulse.py", "max(pulses - 1, 0)", "pulses", PULSE),
    Guard("G5", "a lower bound of a flow clears nothing", "firmware/mote/profiles/water_meter.py", "        elif values[_FLOW] > min(self._limit, self._most):\n", "        elif True:\n", ("tests/vm/test_engine_meter.py", "-k", "single_pulse")),
    Guard("G5", "what a flow is measured over is that of the rules and rates in force", "firmware/mote/profiles/water_meter.py", "        if not self.sensors or config is not self._config or not self.alarms:\n", "        if True:\n", ("tests/vm/test_engine.py", "-k", "meter-a_flow")),
    Guard("G5", "a reading out of turn shortens no sample", "firmware/mote/actions.py", 'getattr(s.driver, "read_aside", s.driver.read_into)(out)', "s.driver.read_into(out)", ("tests/vm/test_engine.py", "-k", "meter-a_reading")),
    Guard("G5", "a nap ends no flow that needs longer", "firmware/mote/nap.py", "    if whole:\n", "    if True:\n", ("tests/vm/test_engine_meter.py", "-k", "rarer")),
    Guard("G5", "a leak is looked for between rows", "firmware/mote/profiles/water_meter.py", "        self._leak(self.now(), self._meter.start + total * self._meter.tenths)\n", "        if total % 7200 == 0:\n            self._leak(self.now(), self._meter.start + total * self._meter.tenths)\n", ("tests/vm/test_engine.py", "-k", "meter-a_leak")),
    Guard("G5", "a meter that sleeps wakes for the hour", "firmware/mote/profiles/water_meter.py", "        return min(t // step * step + step, t // _HOUR * _HOUR + _HOUR)\n", "        return t // step * step + step\n", ("tests/vm/test_engine_meter.py", "-k", "rows_are_rare and 28800")),
    Guard("G5", "less than an hour is no hour of a leak", "firmware/mote/profiles/water_meter.py", "        if self._since and -_LEAST < passed < _LEAST:", "        if False and -_LEAST < passed < _LEAST:", ("tests/vm/test_engine.py", "-k", "meter-a_start")),
    Guard("G5", "a leak is remembered over a power cut", "firmware/mote/profiles/water_meter.py", '            supervisor.nvs.put("leak", now)\n', "            pass\n", ("tests/vm/test_engine.py", "-k", "profiles-a_leak or profiles-a_bay")),
    Guard("G5", "a step of the clock does not begin a leak anew", "firmware/mote/dating.py", "            node.profile.stepped()\n", "            pass\n", ("tests/vm/test_engine.py", "-k", "profiles-a_leak or profiles-a_bay")),
    Guard("G4", "one bad reading of the supply costs nothing", "firmware/mote/power.py", "        if mv < least or buf[LOW] & 1:\n", "        if False:\n", ("tests/vm/mpy/test_engine_parts.py",)),
    Guard("G4", "a station is given time to start", "firmware/mote/hal/wlan.py", "        await asyncio.sleep_ms(_START_MS)\n", "", ("tests/vm/mpy/test_engine_parts.py",)),
    Guard("G4", "an access point that has gone ends no session", "firmware/mote/hal/wlan.py", "        except OSError:  # it has gone", "        except ValueError:  # it has gone", ("tests/vm/mpy/test_engine_parts.py",)),
    Guard("G4", "a radio without its driver ends no boot", "firmware/mote/links/lora_link.py", "            except (RuntimeError, OSError, ImportError) as e:", "            except (RuntimeError, OSError) as e:", ("tests/vm/test_driver_path.py",)),
    Guard("G4", "a cancellation that is lost comes again", "firmware/mote/links/lora_link.py", "    while not task.done():\n        task.cancel()\n", "    if not task.done():\n        task.cancel()\n", ("tests/vm/mpy/test_engine_link.py", "-k", "whenever_its_time")),
    Guard("G1", "a radio with a TCXO is calibrated with it", "firmware/mote/hal/radio.py", "            modem.calibrate()\n", "            pass\n", ("tests/vm/mpy/test_standins_lora.py", "-k", "calibrated")),
    Guard("G4", "a pin that an I2C bus cannot drive is named", "firmware/mote/hal/board.py", 'gpio(spec["scl"], machine.Pin.OPEN_DRAIN)', 'gpio(spec["scl"])', ("tests/vm/test_engine_boot.py", "-k", "what_cannot_work")),
    Guard("G4", "a supply that cannot be measured is told", "firmware/mote/status.py", " or node.power.unwatched()", "", ("tests/vm/test_engine.py", "-k", "remote-a_supply")),
    Guard("G1", "audio is held while flash is erased", "firmware/mote/hal/board.py", "ibuf=8 * frames", "ibuf=2 * frames", ("tests/vm/mpy/test_drivers_inmp441.py",)),
    Guard("G4", "pins that the REPL has are refused", "host_sim/pins.py", "        if pin in repl:\n", "        if False:\n", ("tests/tools/test_boards.py",)),
    Guard("G4", "a window that never ends is ended", "firmware/mote/links/lora_link.py", "left + self._air_ms(_LONGEST) + _TX_SLACK_MS)", "1 << 28)", ("tests/vm/mpy/test_engine_link.py",)),
    Guard("G1", "a dead fan is no clean air", "firmware/mote/drivers/pms5003.py", "                self._alive()\n", "", ("tests/vm/mpy/test_drivers_uart.py",)),
    Guard("G1", "a node that sleeps after a step back waits for no slot of the future", "firmware/mote/sampler.py", "            s.slot = 0  # one of the future", "            pass  # one of the future", ("tests/vm/test_engine.py", "-k", "steps-a_node_that_falls")),
    Guard("G4", "python's part of a start takes time", "host_sim/vm/sim_boot.py", "        sim_clock.advance(sim_clock.now + us)\n", "        pass\n", ("tests/sim/test_fleet.py", "-k", "python_takes")),
    Guard("G10", "rows that wait in RTC memory are seen before a run ends", "host_sim/runner.py", "        while (not complete or now < seen) and now < last:\n", "        while not complete and now < last:\n", ("tests/sim/test_situations.py", "-k", "sleeping_meter")),
    Guard("G1", "a fleet that does not sample is no success", "host_sim/result.py", "        if rows[m.spec.name] < wanted:\n", "        if False:\n", ("tests/sim/test_expect.py",)),
    Guard("G4", "two alarms and a dead radio leave the node its pauses", "firmware/mote/uplink.py", "alarm < 0 and not (self._failures and box.times[i]):", "alarm < 0 and not (self._failures and box.counters[i] == self._probe):", ("tests/vm/test_engine.py", "-k", "uplink-two_alarms")),
    Guard("G4", "a client that only hears pings too", "firmware/mote/links/mqtt.py", "                quiet = idle_ms - ticks_diff(ticks_ms(), self._wrote)\n", "                quiet = idle_ms\n", ("tests/vm/mpy/test_engine_mqtt.py",)),
    Guard("G4", "the clock does not end in 2034", "firmware/mote/clock.py", "_LAST = const(3348282494)", "_LAST = const(0x3FFFFFFF)", ("tests/vm/mpy/test_engine_clock.py",)),
    Guard("G5", "raised rates keep a node awake", "firmware/mote/app.py", "self.control.busy or self.control.raised or", "self.control.busy or", REMOTE),
    Guard("G1", "a safe node writes no flash at low supply", "firmware/mote/safe.py", "        self.supervisor.checks.append(self.power.check)\n", "", ("tests/vm/test_engine.py", "-k", "safe")),
    Guard("G13", "an output sees personal data only when it says so", "gateway/config/filter.py", "    visibility: frozenset[str] = frozenset((OPEN, RESTRICTED))", "    visibility: frozenset[str] = frozenset((OPEN, RESTRICTED, \"personal\"))", FILTER),
    Guard("G13", "a quantity counts by its own circle, not only its node's", "gateway/outputs/filter.py", "    return strictest(visibility, visibility_of(key)) in f.visibility", "    return visibility in f.visibility", FILTER),
    Guard("G13", "open data are of nodes that are open now", "gateway/outputs/filter.py", "        visibility = e.visibility if node is None else strictest(e.visibility, node.visibility)", "        visibility = e.visibility", FILTER),
    Guard("G14", "a row that the journal holds is not written again", "gateway/outputs/files.py", "if self._written and (more := self._written.pop(key(row), None)) is not None:", "if False and (more := self._written.pop(key(row), None)) is not None:", FILES),
    Guard("G14", "the cursor moves only over rows on disk", "gateway/outputs/files.py", "            os.fsync(journal.fileno())\n", "            pass\n", FILES),
    Guard("G14", "a torn line of the journal is cut off", "gateway/outputs/files.py", "            os.truncate(journal, size)", "            pass", FILES),
    Guard("G15", "what was perhaps sent is merged before it is sent again", "gateway/outputs/ngsi_http.py", "        if track.sent < track.highest:", "        if False:", HTTP),
    Guard("G15", "an entity the broker is too busy for is tried again", "gateway/outputs/ngsi_http.py", "                again.append(entity)", "                pass", HTTP),
    Guard("G15", "a replay touches no retained topic", "gateway/replay.py", "    return [m for m in found if not m.retain]", "    return list(found)", REPLAY),
    Guard("G1", "a full disk is for alarms", "gateway/intake.py", "        if self._engine.full and not alarm:\n", "        if False:\n", STORE),
    Guard("G1", "a damaged store is recovered", "gateway/store/recovery.py", "& 0xFF in DAMAGE:\n", "& 0xFF in ():\n", CARE),
    Guard("G1", "what waits for an output outlives its age", "gateway/store/retention.py", "                if not done or received >= before:\n", "                if received >= before:\n", CARE),
    Guard("G1", "at the size limit alarms go last", "gateway/store/retention.py", "        for express in (0, 1):\n", "        for express in (1, 0):\n", CARE),
    Guard("G1", "a frame read again becomes an event once", "gateway/store/sqlite.py", " AND counter = ? AND reason <> ''\",", " AND counter = ?\",", ENGINE),
    Guard("G2", "downlink counters of a recovered store are moved ahead", "gateway/store/recovery.py", "        _jump(new, now)\n", "", CARE),
    Guard("G2", "downlink counters of a restored store are moved ahead", "gateway/store/recovery.py", "            _restored(db, now)\n", "            pass\n", CARE),
    Guard("G3", "a repeat of a frame that retention dropped is no news", "gateway/store/sqlite.py", "            if row is not None and r.counter < row[0]:", "            if False:", CARE),
    Guard("G3", "frames say which counters a lost state had accepted", "gateway/store/recovery.py", '        told["states_rebuilt"] = _replays(new)\n', "", CARE),
    Guard("G1", "alarms pass the backlog", "gateway/outputs/destination.py", "            if lane is not None and lane.waits:\n", "            if lane is not None and lane.waits and track.sent >= self._engine.newest():\n", LANE),
    Guard("G1", "bulk leaves alarms to their lane", "gateway/outputs/mqtt.py", "            if entry.express:\n                self._track.begin", "            if False:\n                self._track.begin", LANE),
    Guard("G3", "a known id is answered and not executed again", "gateway/core/order_requests.py", "            if known is not None:\n                return self._again", "            if False:\n                return self._again", COMMANDS),
    Guard("G3", "a command is sent again only while its node remembers it", "gateway/core/order_offers.py", "is_urgent(c.name) or not _forgotten(mine, book)", "True", COMMANDS),
    Guard("G3", "what a node has taken is not sent again", "gateway/core/command.py", "        if self.taken or (now if at_nodes is None else at_nodes) >= self.expires or", "        if (now if at_nodes is None else at_nodes) >= self.expires or", COMMANDS),
    Guard("G3", "a number given by a lost store is not given again", "gateway/core/order_book.py", "max(begun + 1, int(now) if now < MOST else 0)", "begun + 1", COMMANDS),
    Guard("G3", "nothing is sent behind its expiry", "gateway/core/command.py", "        if self.taken or (now if at_nodes is None else at_nodes) >= self.expires or", "        if self.taken or", COMMANDS),
    Guard("G3", "an expired request is refused", "gateway/core/authorise.py", "    if at <= now:\n", "    if False:\n", RIGHTS),
    Guard("G3", "a request names who the broker vouches for", "gateway/core/order_requests.py", "            if request.requester != requester:\n", "            if False:\n", RIGHTS),
    Guard("G3", "a star does not grant valves", "gateway/core/authorise.py", "command not in BY_NAME_ONLY and ", "", RIGHTS),
    Guard("G3", "closing for arrears needs a role that says so", "gateway/core/authorise.py", "or not any(r.arrears for r in roles)", "", RIGHTS),
    Guard("G3", "no valve closes by itself unless that is enabled", "gateway/core/own_orders.py", "if valve is None or not valve.auto_close or not _is", "if valve is None or not _is", OWN_ORDERS),
    Guard("G3", "a command leaves after its commit only", "gateway/commit.py", "        if error is None and then is not None:\n", "        if then is not None:\n", ORDERS),
    Guard("G3", "the audit log is append-only", "gateway/store/audit.py", "BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END\"", "BEFORE UPDATE ON audit BEGIN SELECT 1; END\"", ORDERS),
    Guard("G4", "a configuration that resets its node is given up", "gateway/core/order_answers.py", "            if c.resets < RESETS:\n", "            if True:\n", CONFIGURATION),
    Guard("G3", "answers about a household leave through no output that may not see it", "gateway/outputs/filter.py", "            return e if visibility in f.visibility else None\n", "            return e\n", ("tests/gateway/test_commands_process.py", "-k", "personal")),
    Guard("G3", "a role is bound to its areas", "gateway/core/authorise.py", "        return named and here and ", "        return named and ", RIGHTS),
    Guard("G5", "commands leave room in the duty cycle", "gateway/downlinks.py", "        share = 1.0 if offer.priority > 1 else COMMAND_SHARE\n", "        share = 1.0\n", ORDERS),
    Guard("G1", "a message id is not used again before its PUBACK", "gateway/mqtt_session.py", "while mid in self._flying:", "while False:", WIRE),
    Guard("G1", "bytes the kernel does not take wait", "gateway/mqtt_wire.py", "            del self._out[:sent]", "            self._out.clear()", WIRE),
    Guard("G1", "a PUBACK is taken only where a packet begins", "gateway/mqtt_wire.py", "        if not self._left and not self._skip:\n            end =", "        if True:\n            end =", WIRE),
    Guard("rules", "late columns change no rule", "gateway/core/rules/limits.py", "for c, newest in event.latest:", "for c, newest in [(i, 0) for i in range(len(event.columns))]:", (*RULES, "-k", "late")),
    Guard("rules", "an old row raises nothing", "gateway/core/rules/machine.py", "    if not fresh:\n", "    if False:\n", (*RULES, "-k", "old_rows or backlog")),
    Guard("rules", "an alarm ends on the far side of its hysteresis", "gateway/core/rules/machine.py", "    elif rule.inside(v):\n", "    elif not rule.beyond(v):\n", (*RULES, "-k", "history or raised_updated")),
    Guard("rules", "what a failed commit had noted is forgotten", "gateway/derivation.py", "        self.notebook.forget()\n", "", ("tests/gateway/test_city.py", "-k", "fails or all")),
    Guard("rules", "an old period replaces no newer one", "gateway/core/aggregates/hours.py", 'latest = end >= own["p"].get(f.name, 0)', "latest = True", (*SUMS, "-k", "reopens")),
    Guard("rules", "a late row reopens its hour with what it held", "gateway/core/aggregates/hours.py", "*(noted or (0, {}))]", "*((0, {}))]", (*SUMS, "-k", "brute")),
    Guard("rules", "a silent link is no storm of alarms", "gateway/core/rules/faults.py", "alive |= last > off[0] and", "alive |= True or", ("tests/gateway/test_faults.py", "-k", "storm or restart")),
    Guard("G7", "a bad file changes nothing", "gateway/reload.py", "                return await asyncio.to_thread(load, file)", "                return self._current()", ("tests/gateway/test_process_reload.py", "-k", "misspelt")),
    Guard("G7", "all mistakes are told, not the first", "gateway/config/mistakes.py", "                t = t.without(e.key, *e.also, **({e.key: rest} if rest else {}))\n", "                return None\n", ("tests/gateway/test_config_keys.py", "-k", "at_once")),
    Guard("G8", "a key is never quoted", "gateway/config/table.py", "if key in SECRETS else shown(value)", "if False else shown(value)", ("tests/gateway/test_config_keys.py", "-k", "at_once")),
    Guard("G8", "metrics stay on this machine", "gateway/config/gateway.py", "    if not address.is_loopback and not beyond:\n", "    if False:\n", ("tests/gateway/test_http.py", "-k", "said_twice")),
    Guard("G8", "http is read-only", "gateway/http/server.py", '        if method not in ("GET", "HEAD"):\n', "        if False:\n", ("tests/gateway/test_http.py", "-k", "read_only")),
    Guard("G8", "bytes never reach the log", "gateway/logs.py", "        if isinstance(value, (bytes, bytearray, memoryview)):\n", "        if False:\n", ("tests/gateway/test_logs.py",)),
    Guard("G3", "a flood is no flood of the log", "gateway/logs.py", "            raise structlog.DropEvent\n        seen[1] += 1\n", "            pass\n        seen[1] += 1\n", ("tests/gateway/test_logs.py",)),
    Guard("G3", "only authentic frames spend a node's rate", "gateway/intake.py", "        shift_s = self.shift_s(rx.received)\n", '        self.rates.take(node.id, "", rx.received)\n        shift_s = self.shift_s(rx.received)\n', ("tests/gateway/test_rate.py",)),
    Guard("G1", "a full gateway takes alarms", "gateway/intake.py", "        if self.pending >= MAX_PENDING and not alarm:\n", "        if self.pending >= MAX_PENDING:\n", ("tests/gateway/test_rate.py",)),
    Guard("G5", "airtime moves along when the clock is set", "gateway/downlinks.py", "            ledger.shift(int(seconds * 1e6))\n", "            pass\n", ("tests/gateway/test_clock.py",)),
    Guard("G7", "a clock that is set makes nobody silent", "gateway/presence.py", "max(heard, self._presumed))", "heard)", ("tests/gateway/test_clock.py",)),
    Guard("G7", "heard in the future is not believed", "gateway/core/decide.py", "if state.heard - rx.received < CLOCK_SET_S else rx.received", "", ("tests/gateway/test_clock.py",)),
    Guard("G1", "a broker that acknowledges nothing is left", "gateway/outputs/mqtt.py", "            elif now - since >= PUBACK_S:\n", "            elif False:\n", ("tests/gateway/test_process_limits.py", "-k", "stops_acknowledging")),
    Guard("G8", "uninstall leaves what somebody changed", "gateway/install.py", "hexdigest() != digest:", "hexdigest() == 0:", ("tests/gateway/test_deploy.py", "-k", "uninstall")),
)  # fmt: skip


def _copy(target: Path) -> None:
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in names.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    (target / ".venv").symlink_to(ROOT / ".venv")


def _pytest(tree: Path, tests: tuple[str, ...]) -> bool:
    """True when the tests pass in that tree (its packages come before the installed ones)."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", *tests]
    path = f"{tree}:{tree / 'firmware'}"
    env = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "CITYMOTE_WITHOUT_VM32": "1"}
    done = subprocess.run(command, cwd=tree, env={**os.environ, **env}, capture_output=True, text=True, timeout=600)
    interrupted = done.returncode == 2 and "KeyboardInterrupt" in done.stdout  # a Ctrl-C that nothing caught
    if done.returncode not in (0, 1) and not interrupted:
        raise RuntimeError(
            f"pytest ended with {done.returncode} for {tests}:\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
        )
    return done.returncode == 0


def _promises() -> str:
    return " ".join(sorted({g.promise for g in GUARDS}, key=lambda name: (len(name), name)))


def _sound(tree: Path, tests: tuple[str, ...], known: dict[tuple[str, ...], bool]) -> bool:
    """True when the tests pass on the untouched tree; tried once."""
    if tests not in known:
        known[tests] = _pytest(tree, tests)
    return known[tests]


def main() -> int:
    """Try every guard (or those of the promises named, `G2 G3`); print a line each; --json prints one document, --from=N begins at the
    Nth of them."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{__doc__}\nusage: python -m tests.guards [PROMISE ...] [--from=N] [--json]      PROMISE: {_promises()}")
        return 0
    console = Console(stderr=True)
    rows: list[dict[str, str]] = []
    first = [a.partition("=")[2] for a in sys.argv[1:] if a.startswith("--from=")]
    asked = [a for a in sys.argv[1:] if a != "--json" and not a.startswith("--from=")]
    if first and not first[-1].isdigit():
        console.print(f"error: --from={first[-1]}; next: the number of a row, as the lines of an earlier run have it")
        return 2
    strange = [a for a in asked if a not in {g.promise for g in GUARDS}]
    if strange:
        console.print(f"error: nothing guards {' '.join(strange)}; next: name some of {_promises()}")
        return 2
    chosen = [g for g in GUARDS if g.promise in asked] or list(GUARDS)
    with tempfile.TemporaryDirectory(prefix="citymote-guards-") as tmp:
        tree = Path(tmp)
        tree.chmod(0o755)  # the unit of the systemd tests runs as a user of its own and reads it
        _copy(tree)
        sound: dict[tuple[str, ...], bool] = {}
        begin = int(first[-1]) if first else 1
        for n, g in enumerate(chosen[begin - 1 :], begin):
            path = tree / g.file
            text = path.read_text()
            if text.count(g.before) != 1:
                outcome = "UNFIT"
            elif not _sound(tree, g.tests, sound):
                outcome = "UNTRIED"
            else:
                path.write_text(text.replace(g.before, g.after))
                try:
                    outcome = "UNNOTICED" if _pytest(tree, g.tests) else "noticed"
                finally:
                    path.write_text(text)
            rows.append({"promise": g.promise, "guard": g.what, "outcome": outcome})
            console.print(f"{n}/{len(chosen)} {g.promise}  {outcome:9}  without: {g.what}", highlight=False)
            if outcome in _NEXT:
                console.print(f"  {_NEXT[outcome].format(file=g.file, tests=' '.join(g.tests))}", highlight=False)
    count = Counter(r["outcome"] for r in rows)
    if "--json" in sys.argv:
        print(
            json.dumps({"guards": rows, **{k.lower(): count[k] for k in ("UNNOTICED", "UNFIT", "UNTRIED")}}, indent=2)
        )
    console.print(f"{count['noticed']} of {len(rows)} removed guards were noticed by a test")
    return 2 if count["UNFIT"] or count["UNTRIED"] else 1 if count["UNNOTICED"] else 0


_NEXT = {
    "UNNOTICED": "next: a test that fails without it; {tests} does not",
    "UNFIT": "next: {file} does not hold the text of this row exactly once; mend the row",
    "UNTRIED": "next: {tests} fails on the untouched tree; run it alone and mend it",
}


if __name__ == "__main__":
    sys.exit(main())
