"""From an output's configuration to the destination that serves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.config import FilesOutputConfig, MqttOutputConfig, NgsiHttpOutputConfig, OutputConfig
from gateway.core.model import Node
from gateway.metrics import Metrics
from gateway.outputs.destination import Destination
from gateway.store.engine import Engine


def build(
    config: OutputConfig,
    gateway: str,
    engine: Engine,
    metrics: Metrics,
    info: Callable[[], dict[str, Any]],
    nodes: Mapping[int, Node],
) -> Destination:
    """Return the destination of an output; nothing is opened before its run(). Sinks are imported on use: few need all of them."""
    match config:
        case MqttOutputConfig():
            from gateway.outputs.mqtt import MqttOutput

            return MqttOutput(config, gateway, engine, metrics, info, nodes)
        case FilesOutputConfig():
            from gateway.outputs.files import FilesOutput

            return FilesOutput(config, gateway, engine, metrics, info, nodes)
        case NgsiHttpOutputConfig():
            from gateway.outputs.ngsi_http import NgsiHttpOutput

            return NgsiHttpOutput(config, gateway, engine, metrics, info, nodes)
