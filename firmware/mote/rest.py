"""Samples that a sleeping node leaves out, because the hardware of its sensor measures on (a profile with rests() and hurries()). In memory in mode `sleep` only."""

from micropython import const
from mote import borrow

_SLACK = const(10)  # mote.alarms


def sure(clock):
    """True once it is known how fast the board's clock runs asleep, to a tenth of a per cent: measured, or found to be right."""
    return (
        clock.drift_ppm != 0 or clock.quality > 0 and not clock._kind and clock._asks == 2
    )  # asked twice, answered, no doubt


class Rest:
    """node: mote.app.Node."""

    def __init__(self, node):
        self._node = node
        profile = node.profile
        self._able = bool(profile.sensors) and hasattr(profile, "rests")
        if self._able:
            profile.calm = self.calm
            node.sampler.next_look = profile.next_look

    def calm(self, column):
        """The least sum of samples of this column, its means, that would tell something (limits `above`, times what may come as one; 2**30 - 1:
        there are none) while no rule is up, running or left to be cleared. -1: every sample counts."""
        least = 0x3FFFFFFF
        alarms = self._node.alarms
        if self._node.control.raised or alarms._gone:
            return -1
        for rule in alarms.rules:
            if rule.active or rule.run or rule.column != column or not rule.up:
                return -1
            least = min(least, rule.limit * max(1, rule.hold // _SLACK))
        return least

    def look(self):
        """True, and a sample is taken now, when what the hardware measured does not wait for the next one."""
        if not self._able or not self._node.profile.hurries():
            return False
        sampler = self._node.sampler
        hurried = False
        for i in range(len(sampler._sensors)):
            s = sampler._sensors[i]
            if s.began < 0 and s.task is not None:
                s.task.cancel()
                s.due = 0  # no time to sleep
                sampler._spawn(i, True)
                hurried = True
        return hurried

    def plan(self, places):
        """What a boot needs that adds a row and builds no node (mote.nap), or nothing when the next one must. places: of the parts in the image."""
        return borrow("mote.napping", "plan", self._node, places) if self._able and self._node.profile.rests() else ()

    def divide(self):
        """Rows that mote.nap added may be more than a frame takes: seal them in several. Raises OSError, NeedsKey."""
        batcher = self._node.batcher
        batch, staging = batcher._batch, batcher._staging
        if batcher._outbox.rotten:
            borrow("mote.rotten", "settle", batcher._outbox, staging)
        if batcher.tried < batch.rows and batch.rows > 1 and not batcher._fits(batch):
            stage = staging.stage
            try:
                staging.park()
            except OSError:
                borrow("mote.refused", "leave", batcher)
                return
            batch.clear()
            borrow("mote.dating", "take_up", batcher, 0, stage)
            batcher._closed()
