"""Durations on the command line (90s, 10m, 2h, 7d), and numbers within bounds."""

import math
import re
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType):
    """Seconds from text like 10m."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,6})([smhd])", value)
        if found is None:
            self.fail(f"{value!r} is no duration: write 90s, 10m, 2h or 7d", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


DURATION = Duration()


class Number(click.FloatRange):
    """A number within bounds: click's own takes nan for one, since it is not beyond any bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number: write one {self._describe_range()}", param, ctx)
        return number
