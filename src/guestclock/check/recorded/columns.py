"""What a recorded trace is made of: its columns, clocks, contexts, kinds of events and the keys of its header.

The one table of names: the reader holds files to it, the command prints it, docs/traces.md is tested against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CLOCKS = (
    "MONOTONIC",
    "MONOTONIC_RAW",
    "BOOTTIME",
    "REALTIME",
    "TAI",
    "KVMCLOCK",
    "SCHED_CLOCK",
    "COUNTER",
)
"""What `clock` may be. All in ns but COUNTER: the guest's TSC or CNTVCT_EL0 itself, in cycles."""

CLOCK_CODES = {name: code for code, name in enumerate(CLOCKS)}
MONOTONIC, MONOTONIC_RAW, BOOTTIME, REALTIME, TAI, KVMCLOCK, SCHED_CLOCK, COUNTER = range(len(CLOCKS))

CONTEXTS = ("task", "irq", "nmi")
CONTEXT_CODES = {name: code for code, name in enumerate(CONTEXTS)}
PATHS = ("syscall", "vdso", "fast")
PATH_CODES = {name: code for code, name in enumerate(PATHS)}
FAST = PATH_CODES["fast"]
READ = "read"


@dataclass(frozen=True, slots=True)
class Column:
    """kind: "int", "ppm" (a decimal number), "word" or "text". signed: may be negative."""

    name: str
    about: str
    kind: str = "int"
    signed: bool = False


COLUMNS = (
    Column("event", "what the row is: empty or read for a reading, else one of the events", "word"),
    Column("vcpu", "which vCPU; without this column all is vCPU 0"),
    Column("seq", "place in that vCPU's program order, rising; without it the order of the rows is"),
    Column("c0", "guest counter (TSC, CNTVCT) just before, u64"),
    Column("c1", "guest counter just after"),
    Column("h0", "host counter just before, u64: one timeline for all vCPUs and for the host's events"),
    Column("h1", "host counter just after"),
    Column("clock", "which clock was read", "word"),
    Column("value", "what it showed: ns (COUNTER: cycles)", signed=True),
    Column("context", "task (without it), irq or nmi", "word"),
    Column("path", "syscall (without it), vdso, or fast (the NMI-safe readers)", "word"),
    Column("epoch", "number of the agreement between counter and parameters; never falls"),
    Column("host_ns", "the host's same clock at that moment (KVMCLOCK: its RAW + offs_boot)", signed=True),
    Column("err_ns", "how well host_ns is known: host_ns ± err_ns"),
    Column("id", "whose: a token, a timer, a page, a host", "word"),
    Column("ns", "an amount: slept, injected, stepped; a deadline", signed=True),
    Column("interval_ns", "a periodic timer's period"),
    Column("overruns", "how many periods a timer's expiry stands for"),
    Column("version", "a sequence or version number"),
    Column("text", "a page's contents, a log line, a hash, a state", "text"),
    Column("vm_epoch", "the VM's epoch when a vCPU was entered"),
    Column("host_monotonic_ns", "host's CLOCK_MONOTONIC at that moment"),
    Column("host_boottime_ns", "host's CLOCK_BOOTTIME at that moment"),
    Column("ppm", "NTP's frequency as adjtimex tells it, in ppm", "ppm", signed=True),
    Column("status", "adjtimex's status bits"),
    Column("maxerror_us", "adjtimex's maxerror"),
    Column("offset_ns", "adjtimex's remaining offset", signed=True),
    Column("marker", "vmclock's disruption_marker"),
    Column("generation", "vmclock's vm_generation_counter"),
    Column("shared_ns", "total of suspensions in the shared page"),
    Column("injected_ns", "total that the guest has injected"),
    Column("believed_ns", "total that the host believes"),
)
COLUMN_BY_NAME: Mapping[str, Column] = {column.name: column for column in COLUMNS}


@dataclass(frozen=True, slots=True)
class Kind:
    """An event: the columns it must have, those it may have besides vcpu, c0, c1, h0 and h1, and what it says.

    boundary: readings before and after it are judged apart (a clock may do there what it may do nowhere else).
    """

    name: str
    needs: tuple[str, ...]
    about: str
    may: tuple[str, ...] = ()
    boundary: bool = False


KINDS = (
    Kind("stop", (), "the last vCPU has left the guest (c0, c1: the guest's counter there)",
         ("host_monotonic_ns", "host_boottime_ns"), boundary=True),
    Kind("resume", (), "the first vCPU is about to enter again (c0, c1: the guest's counter there)",
         ("host_monotonic_ns", "host_boottime_ns"), boundary=True),
    Kind("abort", (), "the sleep in whose stop we are was given up: nothing slept"),
    Kind("sleep", ("ns",), "the host slept, and believes that it was this long"),
    Kind("inject", ("ns",), "from here on a reading may show BOOTTIME moved by this much", ("epoch",), boundary=True),
    Kind("set", ("clock", "ns"), "REALTIME (and TAI) or TAI alone was stepped by this much", boundary=True),
    Kind("freq", ("ppm",), "NTP's frequency is this from here on", boundary=True),
    Kind("send", ("id",), "a token left this vCPU; what it has read, the receiver knows"),
    Kind("recv", ("id",), "and came to this one"),
    Kind("online", ("vcpu",), "a vCPU was plugged in: it has read nothing before", boundary=True),
    Kind("arm", ("id", "clock", "ns"), "a timer was armed; ns is its deadline on that clock",
         ("interval_ns",)),
    Kind("fire", ("id", "value"), "it expired; value is its clock, read in the handler", ("overruns",)),
    Kind("disarm", ("id",), "it was taken back"),
    Kind("cancel", ("id",), "it was cancelled because the wall clock moved (TFD_TIMER_CANCEL_ON_SET)"),
    Kind("page", ("id", "version"), "a page that a reader took for good: its version and contents, in any writing",
         ("text",)),
    Kind("vmclock", ("version", "marker"), "the vmclock page, at rest", ("generation",)),
    Kind("move", ("text",), "the VM came by migrate, restore or clone", boundary=True),
    Kind("entry", ("vcpu",), "a vCPU entered the guest", ("epoch", "vm_epoch", "id")),
    Kind("commit", ("id",), "from here on the host `id` alone may run the image"),
    Kind("irq", ("epoch",), "the interrupt that tells of this epoch was delivered"),
    Kind("ack", ("epoch",), "the guest has acknowledged this epoch"),
    Kind("totals", ("shared_ns", "injected_ns", "believed_ns"), "the three sums, at rest"),
    Kind("freeze", ("text",), "the freeze protocol's state: frozen, acked, moved, reconf or thawed", ("id",),
         boundary=True),
    Kind("nmi", ("vcpu",), "an NMI handler ran"),
    Kind("ntp", ("status", "maxerror_us", "offset_ns", "ppm"), "what adjtimex says after an injection"),
    Kind("dmesg", ("text",), "a line of the guest's log"),
)  # fmt: skip
KIND_BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}


@dataclass(slots=True)
class Event:
    """A row that is not a reading. at: file and line, as told to the user. data: its own columns, by name."""

    kind: str
    at: str
    vcpu: int = 0
    c0: int | None = None
    c1: int | None = None
    h0: int | None = None
    h1: int | None = None
    data: dict[str, int | str | float] = field(default_factory=dict)

    def number(self, name: str) -> int:
        found = self.data[name]
        assert isinstance(found, int)
        return found

    def get(self, name: str) -> int | None:
        found = self.data.get(name)
        assert found is None or isinstance(found, int)
        return found

    def word(self, name: str) -> str:
        return str(self.data.get(name, ""))
