"""A configuration arrives: judged, stored, put into effect. Loaded for that only, and each step's helpers go before the next one's come.

It takes effect at once where it can; anything else ends in a planned restart, which loses nothing (what is open is sealed
first, and no crash is counted).
"""

from micropython import const
from mote import borrow, let_go, log, supervisor
from mote.errors import BadConfig
from mote.health import clipped

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_LADDER_OPTIONS = const(2)
_STATUS_CONFIG = const(15)
_STATUS_PROBLEM = const(22)

_LIVE = (
    "sample_s", "row_s", "report_s", "emergency_sample_s", "emergency_row_s", "emergency_report_s", "jitter_s", "ack_age_s",
    "backoff_s", "hello_s", "prove_s", "health_s", "log", "repl", "alarms", "version", "refused",
)  # fmt: skip
_PROBLEM = const(28)  # bytes


def take(remote, value):
    """Take downlink key 4 {number: value} for a mote.remote.Remote. Raises BadConfig (reported, nothing changed), OSError."""
    node = remote.node
    try:
        updates = borrow("mote.pieces", "updates_of", value, node.config.values)
        let_go("motewire.codes")
        let_go("motewire.quantities")
        if not updates:
            return
        before, values = node.config.change(updates, lambda values: judge(remote, values))
    except BadConfig as e:
        remote.refused += 1
        node.health.send([(_STATUS_PROBLEM, clipped(str(e), _PROBLEM))])
        node.uplink.fresh(True)
        raise e
    log.info("config version %d", values["version"])
    node.health.send([(_STATUS_CONFIG, values["version"])])
    node.uplink.fresh(True)
    if before is values:
        return
    if remote.whole:
        apply(remote, before, values)
    else:
        _restart(remote)


def _restart(control):
    """A restart puts the newest values into effect; whatever else changes until then, no answer proves them."""
    control.node.config.waits = True
    control.restart()


def judge(remote, values):
    """Raise BadConfig for what only this node can know to be wrong."""
    now = remote.node.config.values
    if values["profile"] != now.get("profile"):
        from mote.profiles.opening import PROFILES, open_profile

        if values["profile"] not in PROFILES:
            raise BadConfig("profile: " + values["profile"])
        if remote.whole:
            if values["alarms"] != now["alarms"]:
                borrow("mote.rules", "known", values["alarms"])
            _rules_of_another(open_profile(values["profile"]), values)
            let_go("mote.profiles." + PROFILES[values["profile"]].split(":")[0])
    if remote.whole and values["profile"] == now.get("profile"):
        profile = remote.node.profile
        if values["mode"] == "sleep" and not profile.rhythm(values)[1]:
            raise BadConfig("mode sleep: not with event rows")
        if values["sensors"] != now["sensors"]:
            why = borrow("motewire.config", "misspelt", values["sensors"])
            if why:
                raise BadConfig(why)
        if values["alarms"] != now["alarms"]:
            borrow("mote.rules", "known", values["alarms"])
        if values["alarms"] != now["alarms"] or values["sensors"] != now["sensors"]:
            _rules(profile, values)


def _rules_of_another(cls, values):
    """Raise BadConfig for rules that cannot work under a profile that nothing is built of: the start under it would fail, and again."""
    from motewire.quantities import ids_of

    try:
        borrow("mote.rules", "rules_from", cls.alarm_specs(cls, values), ids_of(cls.KEYS))
    finally:
        let_go("motewire.quantities")


def _rules(profile, values):
    specs = profile.alarm_specs(values)
    try:
        return borrow("mote.rules", "rules_from", specs, profile.ids)
    finally:
        let_go("motewire.quantities")


def apply(control, before, values):
    """Let a new configuration take effect on a whole node."""
    node = control.node
    live = len(before) == len(values)
    for key in values:
        if key not in _LIVE and (key not in before or values[key] != before[key]):
            live = False
    stripped = supervisor.level >= _LADDER_OPTIONS
    if values["alarms"] != before["alarms"] and values["profile"] == before["profile"] and not stripped:
        borrow("mote.former", "replace", node.alarms, _rules(node.profile, values), node.clock.now())
    if not live:
        _restart(control)
        return
    if stripped:
        node.config.strip()
    log.level = values["log"]
    supervisor.allow_repl(supervisor.bench or bool(values["repl"]))
    node.uplink.tune(values["jitter_s"], values["ack_age_s"], values["backoff_s"])
    node.config.rates(control.raised)
    node.retune()
