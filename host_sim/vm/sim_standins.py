"""Loads the stand-ins into sys.modules and sets them as a boot file says: the same on the 64-bit and on the 32-bit VM."""

import random
import sys

import sim_clock
import sim_hw

MODULES = ("os", "time", "select", "_asyncio", "network", "socket", "esp32", "machine", "micropython")


def load(cfg):
    """cfg: keys of the boot file (host_sim/protocol.py)."""
    sim_clock.now = sim_clock.boot = cfg.get("now", 0)
    sim_clock.rtc_off = cfg.get("rtc_off", -sim_clock.now)
    sim_clock.cut_at = cfg.get("cut_at", sim_clock.NEVER)
    for m in MODULES:
        sys.modules[m] = __import__("hw_" + m)
    if cfg.get("standins"):
        sys.modules["gc"] = __import__("hw_gc")
    if cfg.get("romfs"):
        import sim_rom

        sim_rom.attach(cfg["romfs"])
        sys.modules["vfs"] = __import__("hw_vfs")
        sys.modules["esp32"].Partition = sys.modules["esp32"].romfs_partition()
    sys.modules["machine"]._state["cause"] = cfg.get("cause", 1)
    sys.modules["machine"].fill_rtc(bytes.fromhex(cfg.get("rtc", "")))
    sys.modules["esp32"]._store.update(cfg.get("nvs", {}))
    sys.modules["os"]._seed(cfg.get("seed", 1))
    random.seed(cfg.get("seed", 1) & 0x3FFFFFFF)
    if cfg.get("world"):
        sim_hw.load_world(open(cfg["world"], "rb"))
    sim_hw.values.update(cfg.get("values", {}))
    sim_hw.build(cfg.get("hw", {}))
    if sim_hw.chip not in sim_hw.HAS_ULP:
        del sys.modules["esp32"].ULP, sys.modules["esp32"].wake_on_ulp
    if sim_hw.chip in sim_hw.HOLDS_SINGLE_PADS:
        del sys.modules["esp32"].gpio_deep_sleep_hold
    import sim_radio

    sim_radio.solder(cfg.get("hw", {}).get("radio", {}), cfg.get("lora") == "driver")
    if cfg.get("lora") != "driver":  # else micropython-lib's own is on the path
        sys.modules["lora"] = __import__("hw_lora")
        for m in ("sx126x", "sx127x", "async_modem", "modem"):
            sys.modules["lora." + m] = sys.modules["lora"]
    kept = cfg.get("kept") or {}
    sim_hw.kept = bool(kept)
    sim_hw.held.update({int(m): kept["hold"][m] for m in kept.get("hold", ())})
    if sim_hw.pulse or "ulp" in kept or cfg.get("keep_chips"):
        import sim_ulp

        sim_ulp.wire()
        if "ulp" in kept:
            sim_ulp.load(kept["ulp"])
        else:
            sim_ulp.power_on()
    sys.modules.pop("chips", None)  # the path it was found on ends with the start; tests find it on another
    if cfg.get("keep_chips"):
        import sim  # noqa: F401
