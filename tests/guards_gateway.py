"""Guards of the gateway's state: what is current, in which order, and whose fault a frame is. Rows of `make guards`, see guards.py."""

from tests.guard import Guard


GATEWAY = (
    Guard("G7", "ids carry the epoch of the key", "gateway/core/model.py", '    return f"{node}:{epoch}:{counter}"\n', '    return f"{node}:{counter}"\n', ("tests/gateway/test_decide.py", "-k", "never_used_twice")),
    Guard("G7", "a late alarm is known by its counter", "gateway/core/alarms.py", "    if counter < state.marks.get(message.quantity, (0, 0))[1]:\n", "    if t < state.marks.get(message.quantity, (0, 0))[0]:\n", ("tests/gateway/test_decide.py", "-k", "set_back_meanwhile")),
    Guard("G7", "an alarm ahead of receipt counts as received now", "gateway/core/alarms.py", "    t = message.t if message.t < times.stop else int(received)\n", "    t = message.t\n", ("tests/gateway/test_decide.py", "-k", "in_the_future_silences")),
    Guard("G7", "a clear ends what was raised before it alone", "gateway/core/alarms.py", "if a.counter < counter)\n", "if True)\n", ("tests/gateway/test_decide.py", "-k", "was_overtaken_ends")),
    Guard("G7", "alarms of a former key can be ended", "gateway/core/decide.py", "{rule: replace(alarm, counter=0) for", "{rule: alarm for", ("tests/gateway/test_decide.py", "-k", "former_key")),
    Guard("G7", "alarms pass the range check", "gateway/core/alarms.py", " or message.value is not None and not q.is_valid(message.value)\n", "\n", ("tests/gateway/test_decide.py", "-k", "same_range_check")),
    Guard("G7", "a status value of a lower counter is history", "gateway/core/decide.py", "        if counter < said.get(key, 0):\n", "        if False:\n", ("tests/gateway/test_decide.py", "-k", "status_frame_that_was_overtaken")),
    Guard("G7", "an older announcement changes no schema", "gateway/core/decide.py", "        if counter >= announced.get(number, 0) and (", "        if (", ("tests/gateway/test_decide.py", "-k", "announced_last")),
    Guard("G7", "a stale health value is not shown", "gateway/outputs/native.py", "        value = now.get(key)\n", "        value = status.get(key)\n", ("tests/gateway/test_formats.py", "-k", "newer_status")),
    Guard("G7", "a stale status judges nothing", "gateway/core/rules/faults.py", "        status = event.current_status\n", "        status = event.status or {}\n", ("tests/gateway/test_faults.py", "-k", "that_was_overtaken")),
    Guard("G7", "a newest value is never later than receipt", "gateway/core/decide.py", "            latest[column.key] = min(times[best], now)\n", "            latest[column.key] = times[best]\n", ("tests/gateway/test_decide.py", "-k", "little_ahead")),
    Guard("G7", "a newest value in the future gives way", "gateway/core/decide.py", " or known > now + CROSSING_S:\n", ":\n", ("tests/gateway/test_decide.py", "-k", "gives_way_at_once")),
    Guard("G7", "rows older than an outbox are suspect", "gateway/core/report.py", "    return range(now - max(PAST_S, PAST_INTERVALS * interval_s), now + FUTURE_S + 1)\n", "    return range(0, now + FUTURE_S + 1)\n", ("tests/gateway/test_decide.py", "-k", "older_than_an_outbox")),
    Guard("G6", "a node leaves behind sixty-four quantities", "gateway/core/decide.py", "        if len(state.ids) + len(more) > MAX_QUANTITIES:\n", "        if False:\n", ("tests/gateway/test_decide.py", "-k", "no_more_than_sixty")),
    Guard("G6", "a node leaves behind sixty-four alarms", "gateway/core/alarms.py", "    if len(kept) > MAX_RULES:\n", "    if False:\n", ("tests/gateway/test_decide.py", "-k", "no_more_than_sixty")),
    Guard("G7", "True is no number of boots", "gateway/core/report.py", "    return type(value) is int\n", "    return isinstance(value, int)\n", ("tests/gateway/test_decide.py", "-k", "odd_type")),
)  # fmt: skip
