"""The service in this process: what its working loop proves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway import service
from gateway.config import load
from host_sim.broker import free_port
from host_sim.load import Mote, registry

TOML = """
[gateway]
id = "gw-1"
store = "gateway.db"
drain_s = 1

[link.lora]
kind = "udp-forwarder"
bind = "127.0.0.1:{port}"

[output.day]
kind = "files"
folder = "archive"
"""


@pytest.mark.parametrize("watched", [False, True])
async def test_a_gateway_with_nothing_to_do_is_never_called_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    """Health must not rest on whether a supervisor asked for a watchdog."""
    monkeypatch.setattr(service, "TICK_S", 0.05)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if watched:
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    else:
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    (tmp_path / "nodes.toml").write_text(registry([Mote(263)]))
    (tmp_path / "gateway.toml").write_text(TOML.format(port=free_port()))
    s = service.Service(load(tmp_path / "gateway.toml"), "error")
    task = asyncio.create_task(s.run())
    try:
        async with asyncio.timeout(60):
            while not s._ready:
                await asyncio.sleep(0.02)
            at = s._progress[1]
            while s._progress[1] == at:  # health says store_stuck when this grows old
                assert not task.done()
                await asyncio.sleep(0.02)
    finally:
        s.stop("the test is over")
        await asyncio.wait_for(task, 20)
