"""What the suspend thread's worlds must know of a host's architecture, and nothing else that differs between two.

The machine that sleeps and the KVM on it; a vCPU's counters, now and in a stretch of its execution; what its VMM does
to take a sleep out of them. `checks.suspend.x86` and `checks.suspend.arm64` are the two there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from guestclock.errors import UserError
from guestclock.linux.clocksource import Clocksource


class Counter(NamedTuple):
    """A counter as one vCPU's guest reads it while nothing that makes it changes.

    offset: what tells two such stretches apart, by identity. at: its value at an instant of true time (ps), u64.
    """

    name: str
    offset: Any
    at: Callable[[Any], Any]


class Seen(NamedTuple):
    """What the guest of a vCPU can read. page: its kvmclock's, where it has one."""

    counters: tuple[Counter, ...]
    page: Any = None


class Architecture(ABC):
    """unit: of a guest's counters.

    clock_counter: the counter that its Linux guests tell the time by, where not by kvmclock. vdso_guards: its vDSO
    takes a counter behind the last update for what it is, and a product of more than 64 bits.
    """

    unit: ClassVar[str]
    clock_counter: ClassVar[str]
    vdso_guards: ClassVar[bool]

    # ---- the host

    @abstractmethod
    def machine(self, world: Any, outcome: Any) -> Any:
        """One that sleeps, under unknown times (checks.suspend.machine.Sleeping)."""

    @abstractmethod
    def kvm(self, world: Any, outcome: Any) -> Any:
        """The setting's kernel's, on that machine."""

    # ---- the guest

    @abstractmethod
    def clocksource(self, setting: Any) -> Clocksource:
        """What its Linux counts with."""

    @abstractmethod
    def cycles(self, stage: Any, vcpu: Any) -> Any:
        """That clocksource on a vCPU, now."""

    @abstractmethod
    def cycles_at_exit(self, stage: Any, vcpu: Any) -> Any:
        """... and where the vCPU last left the guest."""

    @abstractmethod
    def made_of(self, vcpu: Any) -> tuple[Any, ...]:
        """What a vCPU's clocks are made of, as it stands."""

    @abstractmethod
    def same(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
        """Whether two of them are the same: asked of times that are unknown, so that no comparison may be made."""

    @abstractmethod
    def seen(self, outcome: Any, vcpu: Any) -> Seen:
        """What the guest reads on a vCPU that is in it, until `made_of` changes."""

    @abstractmethod
    def persistent_ns(self, stage: Any) -> Any:
        """The clock by which a guest that suspends itself measures how long it slept, ns; 0: there is none."""

    @abstractmethod
    def nonstop_ns(self, stage: Any, began: Any, woke: Any) -> Any:
        """... or what its clocksource says, from one value to another, if it is one that counts meanwhile; else 0."""

    @abstractmethod
    def measures_sleep(self, setting: Any) -> bool:
        """Whether what a guest measures its own suspend by counts a sleep of the host that its VMM hides."""

    def takes_interrupts(self, vcpu: Any) -> bool:
        """Whether the guest's kernel itself runs on this vCPU, if the vCPU is in the guest."""
        return True

    def up(self, vcpu: Any) -> bool:
        """Whether a vCPU that is in the guest has come as far there as it shall be when the lid is closed."""
        return True

    def boots(self, stage: Any) -> None:
        """What else acts in the guest from when its kernel has its clocks."""
        return None

    def records(self, vm: Any) -> Any:
        """Every record that KVM ever stored suspend time in; None where it is not KVM that does."""
        return None

    def idle(self, vcpu: Any) -> bool:
        """Whether the vCPU has nothing to do."""
        return False

    def spins(self, vcpu: Any) -> bool:
        """Whether its thread is in KVM_RUN, is not let in, and tries again and again."""
        return False

    # ---- the VMM

    @abstractmethod
    async def vcpu_made(self, stage: Any, i: int) -> None:
        """After KVM_CREATE_VCPU, at boot."""

    @abstractmethod
    async def set_up(self, stage: Any) -> None:
        """When all vCPUs are made, before the guest's kernel reads a clock."""

    @abstractmethod
    async def plugged(self, stage: Any, i: int) -> None:
        """After KVM_CREATE_VCPU, in a guest that runs."""

    @abstractmethod
    def starts(self, stage: Any, vcpu: Any) -> None:
        """The vCPU as it is to be when its thread is started."""

    @abstractmethod
    def interrupt(self, vcpu: Any) -> None:
        """The VMM raises the interrupt about suspend time."""

    @abstractmethod
    async def stamp(self, vmm: Any) -> Any:
        """With every vCPU out: an instant, and where the VM's clocks stand then. Its `boot_ns`: the host's BOOTTIME."""

    @abstractmethod
    async def put_back(self, vmm: Any, stop: Any) -> Any:
        """Every counter to where it was at the stamp; for how long it stood, ns."""

    @abstractmethod
    def stopped_at(self, stage: Any) -> Any:
        """The stamp that a gate in KVM has taken."""

    @abstractmethod
    def acknowledged(self, vm: Any, gates: int) -> bool:
        """The VMM opens the gate that it saw; False: it has been closed again since."""

    async def move(self, stage: Any) -> None:
        """Management moves the VM to another host that is just like this one."""
        raise UserError("suspend: a VM that is moved is explored on x86 alone")

    async def look(self, stage: Any) -> None:
        """The VMM takes down a vCPU's counter as for a snapshot, whether or not the guest has run since."""
        raise UserError("suspend: a VMM that looks is explored on x86 alone")
