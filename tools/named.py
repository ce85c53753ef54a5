"""A path on the command line, which an empty text is not."""

from pathlib import Path
from typing import Any

import click


class NamedPath(click.Path):
    """click.Path to a Path, which refuses "": a variable that is not set would be the folder that someone happens to be in."""

    def __init__(self, **more: Any) -> None:
        super().__init__(path_type=Path, **more)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)
