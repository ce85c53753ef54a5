"""What micropython-lib's radio driver holds, which the simulator's stand-in does not: nodes have so much less heap, and measurements are so much more."""

# Bytes of lora 0.2.0, lora-async 0.1.1, lora-sx126x 0.1.6 (micropython-lib, 2026-08-17) and one modem in a built node, the most of any profile:
# CITYMOTE_LORA_DRIVER=DIR citymote bench heap
DRIVER = {"mpy": 13_536, "romfs": 6_576}


def radio_driver(link: str, way: str) -> int:
    """Bytes on this link ("lora", "wifi") when the firmware and the driver run from `way` ("mpy", "romfs")."""
    return DRIVER[way] if link == "lora" else 0
