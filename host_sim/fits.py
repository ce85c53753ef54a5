"""Does a profile fit a board? Its chips on the board's buses, the pins these are on, its heap in what the board leaves."""

from __future__ import annotations

from dataclasses import dataclass

from host_sim import boards, pins, provision
from host_sim.schema import nearest
from host_sim.vm32.held import RESERVE, on_board

LINKS = ("lora", "wifi")


@dataclass(frozen=True, slots=True)
class Fit:
    """One way ("mpy", "romfs"): bytes that the firmware holds there, bytes that the board leaves."""

    way: str
    held: int
    left: int

    @property
    def need(self) -> int:
        return self.held + RESERVE

    @property
    def fits(self) -> bool:
        return self.need <= self.left


@dataclass(frozen=True, slots=True)
class Verdict:
    """refusals: why the profile cannot be built on this board at all. ways: what each would take. advice: what to flash, or to take instead."""

    board: str
    profile: str
    link: str
    tls: bool
    refusals: tuple[str, ...]
    ways: tuple[Fit, ...]
    advice: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.refusals and any(f.fits for f in self.ways)


def check(board: str, profile: str, *, link: str | None = None, tls: bool = False, image: str | None = None) -> Verdict:
    """Judge `profile` on `board`; link: "lora" or "wifi", without it the radio's if there is one. tls: the connection to the broker is encrypted.
    image: name of the MicroPython image on it, without it the board's own.

    BoardError: no such board or profile, or a link that takes no TLS.
    """
    table = boards.load(board)
    if profile not in provision.CHIPS:
        raise boards.BoardError(f'unknown profile "{profile}"{nearest(profile, provision.CHIPS)}')
    link = link or ("lora" if "radio" in table and not tls else "wifi")
    if tls and link != "wifi":
        raise boards.BoardError("TLS is for a connection over WiFi; LoRa frames are sealed end to end anyway")
    refusals = [
        f"no [{kind}.N]: the {chip} of {profile} has nowhere to be wired to"
        for kind, _, chip in provision.CHIPS[profile]
        if not table.get(kind)
    ]
    if link == "lora" and "radio" not in table:
        refusals.append("no [radio]: this board has WiFi only")
    refusals += pins.problems(table, image or boards.image(board).stock)
    left = boards.heap_kb(board)
    bytes_left = 1000 * (left.tls if tls else left.wifi if link == "wifi" else left.radio)
    ways = tuple(Fit(way, on_board(profile, link, way), bytes_left) for way in boards.WAYS)
    return Verdict(board, profile, link, tls, tuple(refusals), ways, tuple(_advice(board, ways, tls)))


def _advice(board: str, ways: tuple[Fit, ...], tls: bool) -> list[str]:
    image = boards.image(board)
    fitting = [f.way for f in ways if f.fits]
    if "mpy" in fitting:
        return [f"the stock image {image.stock} and .mpy files will do"]
    if fitting:
        return [
            f"it takes an image of MicroPython with MICROPY_VFS_ROM and a partition romfs of at least 384 KiB (boards/README.md); the stock image "
            f"{image.stock} has neither"
        ]
    if tls:
        return ["TLS on a node takes a board with PSRAM; frames are sealed end to end without it"]
    return ["take a board with PSRAM (`citymote boards check lilygo_t3s3 --profile ...`), or LoRa instead of WiFi"]
