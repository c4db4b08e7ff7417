"""KVM on arm64 once more, in plain integers: as short as the reference tells it (kvm-arm64.md, Appendix A).

No steps, no cells, no rules: what the model answers must be this, whatever way it comes there. VHE without FEAT_ECV, or
with it; every operation happens at `now`, the host's counter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from guestclock.abi.arm64 import TIMER_REGS

U64 = 2**64
NAME = {reg: name for name, reg in TIMER_REGS.items()}


@dataclass
class PlainTimer:
    ctl: int = 0
    cval: int = 0
    frac: int = 0
    hw_offset: int = 0
    hw_cval: int = 0


@dataclass
class PlainVcpu:
    virtual: PlainTimer = field(default_factory=PlainTimer)
    physical: PlainTimer = field(default_factory=PlainTimer)
    runs: bool = False
    traps: bool = False


@dataclass
class PlainVm:
    """era: "6.1" (also 5.10), "6.3", "6.4", "6.12" or "6.18". mult, shift: the clocksource's."""

    era: str
    mult: int
    shift: int
    ecv: bool
    now: int = 0
    voffset: int = 0
    poffset: int = 0
    fixed: bool = False
    vcpus: list[PlainVcpu] = field(default_factory=list)
    frac: int = 0

    @property
    def with_physical(self) -> bool:
        return self.era in ("6.4", "6.12", "6.18")

    @property
    def cntpoff(self) -> bool:
        return self.ecv and self.with_physical

    def create_vcpu(self) -> None:
        self.vcpus.append(PlainVcpu())
        if not self.fixed:
            self.voffset, self.poffset = self.now, 0

    def set_counter_offset(self, offset: int, reserved: int) -> str:
        if not self.with_physical or reserved:
            return "EINVAL"
        if any(vcpu.runs for vcpu in self.vcpus):
            return "EBUSY"
        self.fixed, self.voffset, self.poffset = True, offset, offset
        return ""

    def _timer(self, vcpu: PlainVcpu, reg: int) -> tuple[PlainTimer, int, str]:
        name = NAME[reg]
        if name.startswith("P"):
            return vcpu.physical, self.poffset, name[len("PTIMER_") :]
        return vcpu.virtual, self.voffset, name[len("TIMER_") :]

    def get(self, index: int, reg: int) -> int | str:
        timer, offset, what = self._timer(self.vcpus[index], reg)
        if NAME[reg].startswith("P") and not self.with_physical:
            return "ENOENT"
        count = (self.now - offset) % U64
        if what == "CNT":
            return count
        if what == "CVAL":
            return timer.cval
        if self.era == "6.18":
            return timer.ctl
        return timer.ctl | (4 if self._ns(timer, count) == 0 else 0)

    def _ns(self, timer: PlainTimer, count: int) -> int:
        if count >= timer.cval:
            return 0
        frac = timer.frac if self.with_physical else self.frac
        product = ((timer.cval - count) * self.mult + frac) % U64
        frac = product % 2**self.shift
        if self.with_physical:
            timer.frac = frac
        else:
            self.frac = frac
        return product >> self.shift

    def set(self, index: int, reg: int, value: int) -> str:
        timer, _, what = self._timer(self.vcpus[index], reg)
        physical = NAME[reg].startswith("P")
        if physical and not self.with_physical:
            return "ENOENT"
        if what == "CNT":
            if not self.fixed and physical:
                self.poffset = (self.now - value) % U64
            elif not self.fixed:
                self.voffset = (self.now - value) % U64
        elif what == "CVAL":
            timer.cval = value
        else:
            timer.ctl = (value if self.era == "6.18" else value % 2**32) & ~4
        return ""

    def init(self, index: int) -> None:
        self.vcpus[index].virtual.ctl = self.vcpus[index].physical.ctl = 0

    def start(self, index: int) -> None:
        vcpu = self.vcpus[index]
        vcpu.runs = True
        vcpu.virtual.hw_offset, vcpu.physical.hw_offset = self.voffset, self.poffset
        vcpu.virtual.hw_cval = vcpu.virtual.cval
        # On the host's counter; with CNTPOFF_EL2 the world switch takes it there at each exit, as 6.4 forgot to.
        vcpu.physical.hw_cval = (vcpu.physical.cval + (0 if self.forgets_tge else self.poffset)) % U64
        vcpu.traps = not self.cntpoff and self.poffset != 0

    def kick(self, index: int) -> None:
        """Put: the guest is out, so the hardware compares the physical timer with the host's counter."""
        vcpu = self.vcpus[index]
        vcpu.runs = False
        self._put(vcpu.virtual, (self.now - vcpu.virtual.hw_offset) % U64, 0)
        self._put(vcpu.physical, self.now, 0 if self.forgets_tge else self.poffset)

    @property
    def forgets_tge(self) -> bool:
        return self.era == "6.4" and self.ecv

    def _put(self, timer: PlainTimer, count: int, offset: int) -> None:
        """ENABLE and IMASK are all that the hardware keeps of CTL; it shows ISTATUS with the first."""
        timer.ctl = timer.ctl & 3 | (4 if timer.ctl & 1 and count >= timer.hw_cval else 0)
        timer.cval = (timer.hw_cval - offset) % U64

    def shown(self, index: int) -> tuple[int, int | None]:
        """CNTVCT and CNTPCT, as the guest reads or would read them; the latter by a register since 6.4."""
        vcpu = self.vcpus[index]
        virtual = vcpu.virtual.hw_offset if vcpu.runs else self.voffset
        physical = self.poffset
        if vcpu.runs and not vcpu.traps:
            physical = vcpu.physical.hw_offset if self.cntpoff else 0
        told = vcpu.runs or self.with_physical
        return (self.now - virtual) % U64, (self.now - physical) % U64 if told else None
