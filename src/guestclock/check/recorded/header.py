"""What a trace says of itself before its first row: rates, what was logged, and how much is tolerated for which reason.

In CSV lines `# key: value`, in JSON lines the first object. Every key is optional; without it, something is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite
from typing import Any

from guestclock.arith import clocksource_update_freq_scale
from guestclock.errors import UserError

NS_PER_S = 10**9
DESIGNS = ("none", "stock", "running", "v3", "corrected")
LOGS = ("inject", "set", "timer")


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    kind: str
    about: str
    unit: str = ""


KEYS = (
    Key("vm", "text", "a name for it"),
    Key("vcpus", "int", "how many vCPUs there are"),
    Key("counter_hz", "int", "rate of c0 and c1 as the guest's kernel knows it", "Hz"),
    Key("tsc_khz", "int", "the same of an x86 guest, as its log says", "kHz"),
    Key("counters", "word", "common: c0 and c1 of all vCPUs are one timeline (equal offsets); own: they are not"),
    Key("clocksource", "word", "the guest's: tsc or arch_sys_counter make the rate of its clocks exact"),
    Key("mult", "int", "that clocksource's multiplier, if it is not what its kernel makes of the rate"),
    Key("shift", "int", "and its shift"),
    Key("freq_ppm", "ppm", "NTP's frequency over the whole trace (0: nobody disciplines the clock)", "ppm"),
    Key("host_hz", "int", "rate of h0 and h1", "Hz"),
    Key("host_mult", "int", "the host clocksource's multiplier"),
    Key("logs", "words", "of which events all are in the trace: inject (and no inject row means none happened), set, "
        "timer"),
    Key("design", "word", "what is done about host sleep: none (it never sleeps), stock (nothing), running (all sleep "
        "is hidden, and any part of what the host ran), v3 (as posted in 2021), corrected (all of the stop is hidden)"),
    Key("rate_ppm", "ppm", "how far MONOTONIC may be from its nominal rate when NTP's frequency is not known", "ppm"),
    Key("raw_ppm", "ppm", "and MONOTONIC_RAW, when its rate is not known exactly", "ppm"),
    Key("dither_ns", "int", "how far MONOTONIC swings about a known frequency", "ns"),
    Key("backstep_ns", "int", "how far a fast reader may be behind across an update", "ns"),
    Key("rtc_error_ns", "int", "how far the host's belief of one sleep may be off", "ns"),
    Key("hole_ns", "int", "how much of a stop the corrected design may let through; with running, how much beyond what "
        "the host ran", "ns"),
    Key("stale_ns", "int", "how long BOOTTIME may lack the last sleep, on MONOTONIC", "ns"),
    Key("late_ns", "int", "how late a timer may expire", "ns"),
    Key("real_ns", "int", "how far REALTIME may be from the host's after a stop", "ns"),
)  # fmt: skip
KEY_BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}


@dataclass(frozen=True, slots=True)
class Header:
    """The keys, as values; defaults with their reasons."""

    vm: str = ""
    vcpus: int | None = None
    counter_hz: int | None = None
    tsc_khz: int | None = None
    counters: str = ""
    clocksource: str = ""
    mult: int | None = None
    shift: int | None = None
    freq_ppm: float | None = None
    host_hz: int | None = None
    host_mult: int | None = None
    logs: tuple[str, ...] = ()
    design: str = ""
    rate_ppm: float = 500.0  # MAXFREQ, kernel/time/ntp.c; adjtime, ADJ_TICK and a PLL's phase slew go beyond it
    raw_ppm: float = 50.0  # a crystal against its nominal rate
    dither_ns: int = 250  # a step of mult, 0.24 ppm at most from 1 GHz up, for a second without a tick before the trace
    backstep_ns: int = 10_000  # from -500 to +500 ppm over a tick of 10 ms
    rtc_error_ns: int = NS_PER_S  # a CMOS RTC counts seconds
    hole_ns: int = 2_000_000
    stale_ns: int = 10_000_000  # the longest stretch with interrupts off, and the work item
    late_ns: int = 11_000_000  # 1 ms of interrupt and dispatch, behind the longest stretch with interrupts off
    real_ns: int = NS_PER_S

    @property
    def hz(self) -> int | None:
        return self.counter_hz if self.tsc_khz is None else self.tsc_khz * 1000

    @property
    def exact_line(self) -> tuple[int, int] | None:
        """(mult, shift) of the guest's clocksource where they are known: ns = cycles * mult >> shift."""
        if self.mult is not None and self.shift is not None:
            return self.mult, self.shift
        if self.clocksource == "tsc" and self.tsc_khz:
            return clocksource_update_freq_scale(self.tsc_khz, 1000)
        if self.clocksource == "arch_sys_counter" and self.counter_hz:
            return clocksource_update_freq_scale(self.counter_hz, 1)
        return None


def parse(pairs: Iterable[tuple[str, Any, str]]) -> Header:
    """The header of (key, value, where it stands). Values are strings as in CSV, or what JSON made of them.

    Raises UserError naming the place: an unknown key, a value of another kind, or two keys that contradict each other.
    """
    told: dict[str, Any] = {}
    place = ""
    for name, value, at in pairs:
        place = at
        key = KEY_BY_NAME.get(name)
        if key is None:
            close = get_close_matches(name, KEY_BY_NAME, 1)
            advice = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(KEY_BY_NAME)}"
            raise UserError(f"{at}: unknown key {name[:40]!r} ({advice})")
        if told.get(name, value) != value and name in told:
            raise UserError(f"{at}: {name} is said twice, and differently")
        told[name] = value
    header = Header(**{name: _value(KEY_BY_NAME[name], value, place) for name, value in told.items()})
    _consistent(header, place)
    return header


def _value(key: Key, value: Any, at: str) -> Any:
    wrong = UserError(f"{at}: {key.name}: {str(value)[:60]!r}, expected {_expected(key)}")
    match key.kind:
        case "int":
            if isinstance(value, bool) or not isinstance(value, int | str):
                raise wrong
            try:
                number = int(value)
            except ValueError:
                raise wrong from None
            if number < 0:
                raise wrong
            return number
        case "ppm":
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise wrong
            try:
                number_of_ppm = float(value)
            except ValueError:
                raise wrong from None
            if not isfinite(number_of_ppm):
                raise wrong
            return number_of_ppm
        case "words":
            words = tuple(value.replace(",", " ").split()) if isinstance(value, str) else tuple(value)
            if set(words) - set(LOGS):
                raise wrong
            return words
        case _:
            if not isinstance(value, str):
                raise wrong
            allowed = {"design": DESIGNS, "counters": ("common", "own")}.get(key.name)
            if allowed and value not in allowed:
                raise wrong
            return value


def _expected(key: Key) -> str:
    match key.name, key.kind:
        case "design", _:
            return f"one of {', '.join(DESIGNS)}"
        case "counters", _:
            return "common or own"
        case "logs", _:
            return f"any of {', '.join(LOGS)}"
        case _, "int":
            return f"a whole number{f' of {key.unit}' if key.unit else ''}, not negative"
        case _, "ppm":
            return "a number of ppm"
        case _:
            return "a word"


def _consistent(header: Header, at: str) -> None:
    if header.tsc_khz is not None and header.counter_hz not in (None, header.tsc_khz * 1000):
        raise UserError(f"{at}: counter_hz {header.counter_hz} and tsc_khz {header.tsc_khz} contradict each other")
    for name in ("vcpus", "counter_hz", "tsc_khz", "host_hz", "mult", "host_mult"):
        if getattr(header, name) == 0:
            raise UserError(f"{at}: {name} is 0, expected at least 1")
    if header.hz is not None and header.hz >= 9_200_000_000:
        raise UserError(f"{at}: a counter of {header.hz} Hz, expected less than 9 200 000 000")
    if (header.mult is None) != (header.shift is None):
        raise UserError(f"{at}: mult and shift go together, expected both or neither")
    if header.shift is not None and header.shift > 32:
        raise UserError(f"{at}: shift {header.shift}, expected at most 32")


assert [f.name for f in fields(Header)] == [key.name for key in KEYS]
