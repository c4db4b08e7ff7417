"""The question that the thread of 2017 leaves open: the host's frequency scaling, and NTP in the guest adjusting too.

"Aside of that it'd be interesting to see the interaction between the host frequency scaling change and NTP in the guest
trying to adjust as well." Both are the kernel's PLL (kernel/time/ntp.c), on the timekeepers of host and guest, exact;
each has a client that looks at true time every 64 s, through a network of its own, and calls adjtimex(ADJ_OFFSET).

Three guests: one that counts the TSC (the mail's way: host and guest each have a loop, and neither sees the other's);
one whose clock is the host's steered one (a hypervisor that hands its own NTP down: kvm-clock before 5.5), with a loop
of its own on top; and the same without one. Two events: the crystal warms up by 10 ppm between the third hour and the
fourth; the host's client, and nobody else's, is misled by 5 ms from the third hour on.

Then the event that all of this is for: a guest on the TSC moves, at hour 12, from a crystal that is 20 ppm fast to one
that is 20 ppm slow, both told as the same frequency. NTP's correction is kept, or forgotten (guest.freeze.Rules).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from guestclock.guest.freeze import CORRECTED, MIGRATED, Record, Rules, freeze, reconfigure, unfreeze
from guestclock.linux import Timekeeper, Timex, clocksource
from guestclock.linux.ntp import ADJ_NANO, ADJ_OFFSET, ADJ_STATUS, ADJ_TIMECONST, STA_NANO, STA_PLL

SECOND = 10**9
KHZ = 2_596_122
POLL_S = 64
HOURS = 36
JITTER_NS = 50_000
SETTLED_H = 2
SHOWN_H = 8
EVENT_H = 3
MOVE_H = 12
COLOURS, WIDTHS = ("#0072B2", "#D55E00", "#009E73"), (1.8, 1.0, 1.0)
OUT = Path(__file__).parent.parent / "docs" / "two-loops.svg"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """constant: the PLL's, 6 as ntpd sets it for polls of 64 s, less is quicker. misled_ns: the host's client, by."""

    warms: bool = True
    misled_ns: int = 0
    constant: int = 6

    def crystal_ppb(self, second: int) -> int:
        """How fast the TSC is: 0, then 10 ppm from hour 3 to 4."""
        begins, ends = EVENT_H * 3600, (EVENT_H + 1) * 3600
        return 10_000 * min(max(second - begins, 0), ends - begins) // (ends - begins) if self.warms else 0

    def polls(self) -> Iterator[tuple[int, int, int]]:
        """(second, true ns, TSC) of each."""
        cycles, hz = 0, KHZ * 1000
        for second in range(0, HOURS * 3600, POLL_S):
            yield second, second * SECOND, cycles
            cycles += POLL_S * (hz + hz * self.crystal_ppb(second) // SECOND)


@dataclass
class Client:
    """chronyd's or ntpd's part: an offset measured each poll, handed to the kernel's loop."""

    tk: Timekeeper
    rng: Random
    constant: int = 6
    errors: list[int] = field(default_factory=list)

    @classmethod
    def on(cls, clock: str, seed: int, setting: Setting) -> Client:
        tk = Timekeeper.start(clocksource(clock, tsc_khz=KHZ), 0, hz=250, monotonic_ns=0, realtime_ns=0)
        return cls(tk, Random(seed), setting.constant)

    def poll(self, cycles: int, true_ns: int, *, steers: bool = True, misled_ns: int = 0) -> None:
        """What it sees is up to 50 us off, and misled; what is recorded is the true error."""
        self.tk.tick_until(cycles)
        error = self.tk.realtime_ns(cycles) - true_ns
        self.errors.append(error)
        if steers:
            seen = error - misled_ns + self.rng.randrange(-JITTER_NS, JITTER_NS + 1)
            asked = Timex(
                modes=ADJ_OFFSET | ADJ_STATUS | ADJ_TIMECONST | ADJ_NANO, offset=-seen, status=STA_PLL | STA_NANO,
                constant=self.constant,
            )  # fmt: skip
            self.tk.adjtimex(cycles, asked)


def guests(setting: Setting) -> dict[str, list[int]]:
    """The errors of each."""
    host = Client.on("tsc", 1, setting)
    one, two, none = (
        Client.on("tsc", 2, setting),
        Client.on("kvm-clock", 2, setting),
        Client.on("kvm-clock", 2, setting),
    )
    for second, true_ns, cycles in setting.polls():
        host.poll(cycles, true_ns, misled_ns=setting.misled_ns if second >= EVENT_H * 3600 else 0)
        handed_down = host.tk.monotonic_ns(cycles)
        one.poll(cycles, true_ns)
        two.poll(handed_down, true_ns)
        none.poll(handed_down, true_ns, steers=False)
    return {
        "on the TSC: one loop": one.errors, "on the host's clock: two loops": two.errors,
        "on the host's clock: the host's loop": none.errors,
    }  # fmt: skip


def moved(*, keeps: bool) -> list[int]:
    """From 20 ppm fast to 20 ppm slow, frozen and thawed; policy stop, so that REALTIME is handed the downtime."""
    rules = Rules(rebase=CORRECTED.rebase, keeps_frequency=keeps)
    guest = Client.on("tsc", 2, Setting())
    hz, stopped, back, landing = KHZ * 1000, MOVE_H * 3600, MOVE_H * 3600 + 2, 10**9
    for second in range(0, HOURS * 3600, POLL_S):
        cycles = second * (hz + hz // 50_000)
        if second >= back:
            cycles = landing + (second - back) * (hz - hz // 50_000)
        guest.poll(cycles, second * SECOND)
        if second == stopped:
            record = Record(
                epoch=1, status=MIGRATED, clock=guest.tk.clock, stop_cycles=cycles, as_of_cycles=landing,
                downtime_ns=(back - stopped) * SECOND,
            )  # fmt: skip
            freeze(guest.tk, cycles, rules)
            reconfigure(guest.tk, record, landing, rules)
            unfreeze(guest.tk, record, landing, rules)
    return guest.errors


def after(errors: list[int], hour: int, hours: int = HOURS) -> list[int]:
    return errors[hour * 3600 // POLL_S : (hour + hours) * 3600 // POLL_S]


def told(name: str, errors: list[int], since_h: int) -> str:
    late = after(errors, since_h)
    rms = (sum(e * e for e in late) / len(late)) ** 0.5
    return f"  {name:<38} worst {max(map(abs, late)) / 1e6:7.3f} ms   rms {rms / 1e6:6.3f} ms"


def main(out: Path = OUT) -> None:
    panels = []
    for about, setting in (
        ("the crystal warms up by 10 ppm", Setting()),
        ("the host's client is misled by 5 ms", Setting(warms=False, misled_ns=5_000_000)),
        ("the crystal warms up, and both loops are quick (constant 2)", Setting(constant=2)),
    ):
        found = guests(setting)
        print(f"{about}; REALTIME against true time, hours {SETTLED_H} to {HOURS}")
        for name, errors in found.items():
            print(told(name, errors, SETTLED_H))
        panels.append((f"{about}, hour {EVENT_H}", found, SETTLED_H))
    moves = {"NTP's frequency kept": moved(keeps=True), "NTP's frequency forgotten": moved(keeps=False)}
    print(f"a guest on the TSC moves from +20 ppm to -20 ppm; hours {MOVE_H} to {HOURS}")
    for name, errors in moves.items():
        print(told(name, errors, MOVE_H))
    draw([*panels[:2], (f"a guest on the TSC moves from +20 to -20 ppm, hour {MOVE_H}", moves, MOVE_H - 1)], out)
    print(f"figure: {out}")


def draw(panels: list[tuple[str, dict[str, list[int]], int]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "guestclock", "font.size": 8})
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.4 * len(panels)), layout="constrained")
    for panel, (title, lines, since) in zip(figure.subplots(len(panels), 1), panels, strict=True):
        for (name, errors), colour, width in zip(lines.items(), COLOURS, WIDTHS, strict=False):
            late = after(errors, since, SHOWN_H)
            hours = [since + k * POLL_S / 3600 for k in range(len(late))]
            panel.plot(hours, [e / 1e6 for e in late], label=name, color=colour, linewidth=width)
        panel.set_title(title, loc="left", fontsize=8)
        panel.set_ylabel("REALTIME − true time, ms")
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=7)
        panel.set_xlabel("hours")
    figure.savefig(out, dpi=150, metadata={"Date": None} if out.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
