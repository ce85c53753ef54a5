"""What a quantity is to people: one line per quantity of motewire's registry, which keeps this out of a node's RAM.

method says how a value comes about. visibility is the default for the quantity; a node's own may only be stricter (see `strictest`).
A quantity of motewire without a line here fails tests/wire/test_registry.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway.core.model import OPEN, PERSONAL, RESTRICTED

LANGUAGES = ("sl", "it", "en")
VISIBILITIES = (OPEN, RESTRICTED, PERSONAL)  # from the widest circle to the narrowest


class About(NamedTuple):
    """How it is measured, who may see it by default, and its name in three languages."""

    method: str
    visibility: str
    sl: str
    it: str
    en: str


_A_WEIGHTED = "microphone, A weighting (IEC 61672-1)"
_OPTICAL = "laser scattering, mean over the row; indicative, not a reference method"
_CELL = "electrochemical cell, mean over the row; published in ug/m3 at 293 K and 101.3 kPa"

# fmt: off
ABOUT: Mapping[str, About] = MappingProxyType({
    "temperature": About("semiconductor sensor in a shield, mean over the row", OPEN, "temperatura", "temperatura", "temperature"),
    "humidity": About("capacitive sensor in a shield, mean over the row", OPEN, "relativna vlažnost", "umidità relativa", "relative humidity"),
    "pressure": About("piezoresistive sensor, station pressure, mean over the row", OPEN, "zračni tlak", "pressione atmosferica", "air pressure"),
    "pm1": About(_OPTICAL, OPEN, "delci PM1", "polveri PM1", "particles PM1"),
    "pm25": About(_OPTICAL, OPEN, "delci PM2,5", "polveri PM2,5", "particles PM2.5"),
    "pm10": About(_OPTICAL, OPEN, "delci PM10", "polveri PM10", "particles PM10"),
    "no2": About(_CELL, OPEN, "dušikov dioksid", "biossido di azoto", "nitrogen dioxide"),
    "o3": About(_CELL, OPEN, "ozon", "ozono", "ozone"),
    "laeq": About(f"{_A_WEIGHTED}, energy mean over the row", OPEN, "ekvivalentna raven hrupa LAeq", "livello equivalente LAeq", "equivalent sound level LAeq"),
    "lafmax": About(f"{_A_WEIGHTED}, greatest FAST level in the row", OPEN, "najvišja raven hrupa LAFmax", "livello massimo LAFmax", "greatest sound level LAFmax"),
    "la10": About(f"{_A_WEIGHTED}, FAST level exceeded 10 % of the row", OPEN, "raven hrupa LA10", "livello LA10", "sound level LA10"),
    "la50": About(f"{_A_WEIGHTED}, FAST level exceeded 50 % of the row", OPEN, "raven hrupa LA50", "livello LA50", "sound level LA50"),
    "la90": About(f"{_A_WEIGHTED}, FAST level exceeded 90 % of the row", OPEN, "raven hrupa LA90", "livello LA90", "sound level LA90"),
    "water_volume": About("pulse counter on a meter, register that only rises", PERSONAL, "stanje vodomera", "lettura del contatore", "water meter reading"),
    "water_flow": About("pulses of the row over its length", PERSONAL, "pretok vode", "portata d'acqua", "water flow"),
    "water_pressure": About("pressure transmitter in the main, mean over the row", RESTRICTED, "tlak vode", "pressione dell'acqua", "water pressure"),
    "occupied": About("magnetometer, change of state with hysteresis", OPEN, "zasedeno", "occupato", "occupied"),
    "fill_level": About("ultrasonic distance to the content over the depth of the bin", OPEN, "napolnjenost", "riempimento", "fill level"),
    "tilt": About("accelerometer, angle from upright", RESTRICTED, "nagib", "inclinazione", "tilt"),
    "battery_voltage": About("voltage divider at the battery", RESTRICTED, "napetost baterije", "tensione della batteria", "battery voltage"),
    "toggle": About("state that each row flips", OPEN, "preklop", "commutazione", "toggle"),
    "count": About("number of occurrences in the row", OPEN, "število", "conteggio", "count"),
    "distance": About("ultrasonic time of flight, median of five", OPEN, "razdalja", "distanza", "distance"),
    "particle_count": About("laser scattering, number of particles", OPEN, "število delcev", "numero di particelle", "particle count"),
    "confidence": About("share of agreement in the detector's decision", RESTRICTED, "zanesljivost", "affidabilità", "confidence"),
    "lid_opens": About("contact at the lid, count that only rises", RESTRICTED, "odpiranja pokrova", "aperture del coperchio", "lid openings"),
    "magnetic_anomaly": About("magnetometer, distance from the empty bay's field", RESTRICTED, "magnetna anomalija", "anomalia magnetica", "magnetic anomaly"),
    "rssi": About("receiver's estimate, best copy of the frame", RESTRICTED, "moč signala", "potenza del segnale", "signal strength"),
    "snr": About("receiver's estimate, best copy of the frame", RESTRICTED, "razmerje signal/šum", "rapporto segnale/rumore", "signal to noise ratio"),
})
# fmt: on


def strictest(*visibilities: str) -> str:
    """The narrowest of the circles: what is personal as a quantity or as a node stays personal. Raises ValueError."""
    return VISIBILITIES[max(map(VISIBILITIES.index, visibilities))]


# what aggregates call what they made -> the quantity whose circle it shares
_MADE_OF = {"lday": "laeq", "levening": "laeq", "lnight": "laeq", "lden": "laeq", "index": "pm10"}


def visibility_of(key: str) -> str:
    """A quantity's default circle, of an instance too; what the registry does not know (a status value, `q<id>`) is restricted."""
    base = key.partition("-")[0]
    about = ABOUT.get(_MADE_OF.get(base, base))
    return RESTRICTED if about is None else about.visibility


def label(key: str, language: str) -> str:
    """A quantity's name for people; instance i of a quantity (`pm25-1`) is counted on; an unknown key is its own name.

    Raises ValueError for a language that is not one of LANGUAGES.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r} is none of {', '.join(LANGUAGES)}")
    base, _, instance = key.partition("-")
    about = ABOUT.get(base)
    if about is None:
        return key
    name = about[2 + LANGUAGES.index(language)]
    return f"{name} {int(instance) + 1}" if instance.isdigit() else name
