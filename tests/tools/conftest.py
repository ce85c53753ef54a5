from tests.gateway.conftest import broker, mosquitto

__all__ = ["broker", "mosquitto"]
