"""What people are told of an alarm, in sl, it and en: one line per code. Keys stay neutral English; labels come from core.registry."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gateway.core.registry import LANGUAGES, label

# fmt: off
TEXTS: Mapping[str, tuple[str, str, str]] = MappingProxyType({
    "above": ("{label}: {value} {unit}, nad mejo {limit} {unit}", "{label}: {value} {unit}, sopra il limite di {limit} {unit}", "{label}: {value} {unit}, above the limit of {limit} {unit}"),
    "below": ("{label}: {value} {unit}, pod mejo {limit} {unit}", "{label}: {value} {unit}, sotto il limite di {limit} {unit}", "{label}: {value} {unit}, below the limit of {limit} {unit}"),
    "rise": ("{label} hitro narašča: {value} {unit} na minuto (meja {limit})", "{label} in rapido aumento: {value} {unit} al minuto (limite {limit})", "{label} rises fast: {value} {unit} per minute (limit {limit})"),
    "offline": ("naprava se ne javlja", "il dispositivo non risponde", "the device is silent"),
    "stuck": ("{label}: vrednost se ne spreminja, senzor je morda okvarjen", "{label}: valore fermo, possibile guasto del sensore", "{label}: the value does not change, the sensor may be broken"),
    "stale": ("{label}: ni novih meritev", "{label}: nessuna nuova misura", "{label}: no new readings"),
    "sensor": ("{label}: senzor ne deluje", "{label}: il sensore non funziona", "{label}: the sensor does not work"),
    "battery": ("{label}: {value} {unit}, baterijo je treba zamenjati (meja {limit} {unit})", "{label}: {value} {unit}, batteria da sostituire (limite {limit} {unit})", "{label}: {value} {unit}, the battery must be changed (limit {limit} {unit})"),
    "forecast": ("baterija bo po napovedi prazna čez {value} dni", "batteria scarica prevista tra {value} giorni", "the battery is expected to be empty in {value} days"),
    "cleared": ("{label}: konec alarma", "{label}: allarme rientrato", "{label}: the alarm is over"),
})
INDICATIVE = (" (informativna meritev, ne uradna)", " (misura indicativa, non ufficiale)", " (indicative measurement, not official)")
OTHERS: Mapping[str, tuple[str, str, str]] = MappingProxyType({
    "presence": ("prisotnost", "presenza", "presence"),
    "report": ("meritve", "misure", "readings"),
    "index": ("indeks kakovosti zraka", "indice di qualità dell'aria", "air quality index"),
    "lday": ("kazalec hrupa Ldan", "indicatore di rumore Lgiorno", "noise indicator Lday"),
    "levening": ("kazalec hrupa Lvečer", "indicatore di rumore Lsera", "noise indicator Levening"),
    "lnight": ("kazalec hrupa Lnoč", "indicatore di rumore Lnotte", "noise indicator Lnight"),
    "lden": ("kazalec hrupa Ldvn", "indicatore di rumore Lden", "noise indicator Lden"),
    "water_volume-used": ("poraba vode", "consumo d'acqua", "water use"),
    "free": ("prosta mesta", "posti liberi", "free places"),
    "occupied": ("zasedena mesta", "posti occupati", "occupied places"),
    "balance": ("razlika v vodni bilanci", "differenza del bilancio idrico", "difference of the water balance"),
    "lifetime": ("življenjska doba baterije", "durata della batteria", "battery life"),
})
# fmt: on


SYMBOLS = {"Cel": "°C", "ug/m3": "µg/m³", "%RH": "%", "1": "", "count": ""}  # where people write a unit differently


def name_of(quantity: str, language: str) -> str:
    """A quantity's or an aggregate's name for people."""
    other = OTHERS.get(quantity)
    return other[LANGUAGES.index(language)] if other is not None else label(quantity, language)


def number(v: float | None, language: str) -> str:
    """Write a number as the language does: a comma in sl and it."""
    if v is None:
        return "?"
    text = f"{v:g}" if abs(v) < 1e5 else f"{v:.0f}"
    return text if language == "en" else text.replace(".", ",")


def text_of(
    code: str,
    quantity: str,
    value: float | None,
    limit: float | None,
    unit: str,
    indicative: bool = False,
    own: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return what to tell per language. own: texts of the rule itself, with the same places to fill."""  # fmt: skip
    out = {}
    for i, language in enumerate(LANGUAGES):
        form = (own or {}).get(language) or TEXTS[code][i]
        said = form.format(
            label=name_of(quantity, language), value=number(value, language), limit=number(limit, language),
            unit=SYMBOLS.get(unit, unit),
        )  # fmt: skip
        said = " ".join(said.split()).replace(" ,", ",").replace(" )", ")")
        out[language] = said[:1].upper() + said[1:] + (INDICATIVE[i] if indicative else "")
    return out
