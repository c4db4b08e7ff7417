"""A host that sleeps in S3, its TSC running on: what each clock gains, on real kernels and on the model."""

from __future__ import annotations

import platform
import time

import capstone
import pytest

from guestclock.abi.pvclock import PVCLOCK_GUEST_STOPPED
from guestclock.arith import clocks_calc_mult_shift, pvclock_scale_delta
from guestclock.errors import UserError
from guestclock.kvm.device import native
from guestclock.lab import Lab, sleep_rom
from guestclock.lab.setup import setup
from guestclock.runs import run
from guestclock.runs.real import from_lines
from guestclock.scenario import load, parse
from guestclock.sim import Trace
from tests.lab.programs import OUR_HOST, vmm

S = 10**9
FLAGS = 14

AWAKE_NS = 20_000_000
"""So much of the operation, at most, is freezing, going down, coming up and thawing: the kernel is awake."""

READ_NS = 20_000
"""Two clocks of one look are read so close to each other, when their TSCs are allowed for."""


def sleeping(seconds: float, *then: dict) -> dict:
    sleep = {"actor": "host", "do": "sleep", "say": "sleep", "value": [["int", round(seconds * S)]], "tsc": "running"}
    read = {"actor": "guest", "do": "read", "say": "read"}
    return {"program": "steps", "vcpus": 2, "boot": True, "steps": [read, sleep, read, *then], **OUR_HOST}


class Look:
    """What the clocks showed in one look of a trace, and at which TSC."""

    def __init__(self, trace: Trace, number: int) -> None:
        looks: list[list] = [[]]
        for event in trace.events:
            if event.kind == "step":
                looks.append([])
            looks[-1].append(event)
        events = looks[number + 1]
        khz, start = trace.meta["tsc_khz"], trace.meta["tsc_start"]
        self.ns: dict[str, int] = {}
        self.tsc: dict[str, int] = {}
        for event in events:
            if event.kind == "host":
                self.ns[event.name] = event.data["value"]
                self.tsc[event.name] = start + event.end_ps * khz // 10**9
            elif event.kind == "peek" and event.vcpu == 0:
                self.page, self.guest_tsc = event.data["page"], event.data["tsc"]
                self.ns["kvmclock"], self.tsc["kvmclock"] = event.data["kvmclock_ns"], event.data["host_tsc"][1]
                self.offset = event.data["tsc"] - event.data["host_tsc"][1]
            elif event.name == "GetClock":
                self.flags, self.ns["GET_CLOCK"] = event.data["result"]["flags"], event.data["result"]["clock_ns"]
                self.tsc["GET_CLOCK"] = event.data["result"]["host_tsc"]


class Sleep:
    """What every clock gained between the looks before and after a sleep, and how much of it the TSC counted, ns."""

    def __init__(self, trace: Trace) -> None:
        self.before, self.after = Look(trace, 1), Look(trace, 2)
        self.gained = {name: self.after.ns[name] - self.before.ns[name] for name in self.before.ns}
        khz = trace.meta["tsc_khz"]
        self.by_tsc = {n: (self.after.tsc[n] - self.before.tsc[n]) * 10**6 // khz for n in self.before.ns}
        """The time between the two readings of each clock, by the TSC and the rate that the kernel believes in."""
        (operation,) = [e for e in trace.of("op") if e.name == "HostSleep"]
        self.took_ns = (operation.end_ps - operation.start_ps) // 1000

    def lost(self, clock: str) -> int:
        """By how much the clock gained less than the TSC says."""
        return self.by_tsc[clock] - self.gained[clock]


@pytest.mark.lab
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("seconds", [3, 3600])
def test_what_each_clock_gains_over_a_sleep(kernel, seconds):
    setup([kernel])
    trace = from_lines(Lab(kernel, tsc_khz=None).run(sleeping(seconds)))
    slept = Sleep(trace)
    # the machine was down until the RTC had counted so many seconds
    assert (seconds - 1) * S - AWAKE_NS < slept.took_ns <= seconds * S + AWAKE_NS
    # MONOTONIC and the raw clock stood still, alike
    down_ns = slept.lost("monotonic_raw")
    assert slept.took_ns - AWAKE_NS < down_ns < slept.took_ns
    assert slept.lost("monotonic") == pytest.approx(down_ns, abs=READ_NS + seconds * 20)  # MONOTONIC's rate is steered
    # the guest's TSC and its kvmclock went on through it, by the very same page, but that its guest was stopped
    assert slept.after.offset == slept.before.offset
    assert slept.lost("kvmclock") == pytest.approx(0, abs=READ_NS // 10 + seconds)  # the page's rate: some ns a second
    assert slept.lost("GET_CLOCK") == pytest.approx(0, abs=READ_NS // 10 + seconds)
    assert {**slept.after.page, "flags": 0, "version": 0} == {**slept.before.page, "flags": 0, "version": 0}
    assert slept.before.flags == slept.after.flags == FLAGS
    first = next(e for e in trace.of("guest") if e.start_ps // 1000 > slept.took_ns)
    assert first.data["page"]["flags"] & PVCLOCK_GUEST_STOPPED
    # BOOTTIME and REALTIME gained by the RTC: what it says, to the second, is what REALTIME shows since
    off_ns = slept.lost("boottime")
    assert -S < off_ns < S
    assert slept.lost("realtime") == pytest.approx(off_ns, abs=READ_NS + seconds * 20)
    assert slept.after.ns["realtime"] % S < AWAKE_NS


@pytest.mark.lab
def test_a_snapshot_after_a_sleep_steps_kvmclock_by_rtc_less_tsc_until_6_7():
    """Plugging in a vCPU takes one; nothing else happens to the guest."""
    setup(["6.1", "6.12"])
    then = [vmm("create-vcpu"), vmm("run"), {"actor": "guest", "do": "read", "say": "read"}]
    for kernel, steps in (("6.1", True), ("6.12", False)):
        trace = from_lines(Lab(kernel, tsc_khz=None).run(sleeping(60, *then)))
        pages = [e.data["page"] for e in trace.of("guest") if e.vcpu == 0]
        old, new = pages[1], pages[-1]
        passed = new["tsc_timestamp"] - old["tsc_timestamp"]
        shown_ns = old["system_time"] + pvclock_scale_delta(passed, old["tsc_to_system_mul"], old["tsc_shift"])
        stepped_ns = new["system_time"] - shown_ns
        off_ns = Sleep(trace).lost("boottime")
        assert (passed > 0) == steps
        assert abs(off_ns) > S // 1000, "else it would prove nothing"
        # the two clocks' rates: some ns a second
        assert stepped_ns == pytest.approx(-off_ns if steps else 0, abs=READ_NS)


@pytest.mark.lab
def test_a_kernel_that_believes_a_wrong_rate_takes_the_sleep_for_longer_by_its_tsc_than_by_its_rtc():
    """As where the TSC was calibrated on a busy host: GET_CLOCK +8.06 s over a sleep of 3.1 s was seen once."""
    setup(["6.12"])
    believed_khz = 385_000  # of 1 GHz
    trace = from_lines(Lab("6.12", tsc_khz=believed_khz).run(sleeping(4)))
    slept = Sleep(trace)
    assert trace.meta["tsc_khz"] == believed_khz
    rtc_ns = slept.gained["boottime"] - slept.gained["monotonic"]
    assert 3 * S - AWAKE_NS < rtc_ns < 4 * S + AWAKE_NS
    true_ns = slept.after.tsc["GET_CLOCK"] - slept.before.tsc["GET_CLOCK"]
    assert 3 * S - AWAKE_NS < true_ns < 4 * S + AWAKE_NS
    mult, shift = clocks_calc_mult_shift(believed_khz)
    assert slept.gained["GET_CLOCK"] == pytest.approx(true_ns * mult >> shift, abs=READ_NS)
    assert slept.gained["GET_CLOCK"] > 2 * rtc_ns


def our_tsc_khz() -> int:
    """The rate of this machine's TSC, which is the lab's where time is the host's."""
    began, tsc = time.monotonic_ns(), native.counter()
    time.sleep(0.2)
    return (native.counter() - tsc) * 10**6 // (time.monotonic_ns() - began)


@pytest.mark.lab
@pytest.mark.skipif(platform.machine() != "x86_64", reason="this machine has no TSC, and an emulated one counts oddly")
def test_in_the_host_s_time_the_rtc_s_alarm_wakes_it_too():
    """Nothing holds it up on its way: what holds there holds here, to what a second of the RTC is."""
    setup(["6.12"])
    seconds = 6
    trace = from_lines(Lab("6.12", tsc_khz=our_tsc_khz(), deterministic=False).run(sleeping(seconds)))
    slept = Sleep(trace)
    rtc_ns = slept.gained["boottime"] - slept.gained["monotonic"]
    assert S < rtc_ns < (seconds + 1) * S  # going to sleep takes a while where every instruction is emulated
    assert abs(slept.lost("monotonic_raw") - rtc_ns) < S + slept.by_tsc["monotonic"] // 50  # how well the rate is known
    assert slept.gained["monotonic"] > 0
    assert slept.after.flags == FLAGS
    assert slept.lost("GET_CLOCK") == pytest.approx(0, abs=slept.by_tsc["GET_CLOCK"] // 1000)
    first = next(e for e in trace.of("guest") if e.start_ps // 1000 > slept.took_ns)
    assert first.data["page"]["flags"] & PVCLOCK_GUEST_STOPPED


@pytest.mark.lab
def test_the_model_s_clocks_gain_what_the_kernel_s_gain():
    """In a scenario: the same fits both, but for the second of the RTC's in which the sleep ends."""
    setup(["6.1", "6.12"])
    scenario = load("bugs/suspend-running-tsc")
    for kernel in ("6.1", "6.12"):
        real, model = run(scenario, on=["model", f"lab:{kernel}"], kernels=[f"linux-{kernel}"])[::-1]
        ours, theirs = (Sleep(renumbered(trace, 2)) for trace in (real, model))
        for clock in ("monotonic", "monotonic_raw"):
            assert 0 < ours.gained[clock] < AWAKE_NS + S // 10
            assert 0 <= theirs.gained[clock] < AWAKE_NS
        for clock in ("boottime", "realtime", "GET_CLOCK", "kvmclock"):
            assert abs(ours.gained[clock] - theirs.gained[clock]) < 2 * S, clock
        assert ours.after.page["flags"] == theirs.after.page["flags"]


def renumbered(trace: Trace, before: int) -> Trace:
    """The trace from step `before` on, as if it were the first."""
    shown = Trace(dict(trace.meta))
    number = -1
    for event in trace.events:
        number += event.kind == "step"
        if number >= before or number == 0:
            shown.emit(event)
    return shown


# ---- what a user may ask for


def test_what_no_lab_can_sleep_is_refused():
    for more, told in (("tsc = 'reset'", "use --on model"), ("kind = 's2idle'", "use --on model")):
        text = f"about = 'x'\n[vm]\nvcpus = 1\n[[step]]\nhost = 'sleep'\nvalue = '3 s'\n{more}\n"
        with pytest.raises(UserError, match=rf"\[\[step\]\] 1: 'sleep' cannot be done on lab:6.12: {told}"):
            run(parse(text, "f.toml"), on=["lab:6.12"])


@pytest.mark.lab
def test_a_sleep_beyond_an_rtc_s_day_is_refused_inside():
    setup(["6.12"])
    with pytest.raises(UserError, match="HostSleep: 90000 s: expected at least 1 and less than a day"):
        Lab("6.12", tsc_khz=None).run(sleeping(90_000))


# ---- the ROM

ROM = """
    jmp 6
    cmp byte ptr cs:[5], 0
    jne 0x19
    inc byte ptr cs:[5]
    dec byte ptr cs:[0x1ff]
    retf
    pushal
    push es
    xor ax, ax
    mov es, ax
    push dword ptr es:[0x1c0]
    call 0x29
    pop ax
    add ax, 0x63
    mov word ptr es:[0x1c0], ax
    mov word ptr es:[0x1c2], cs
    in al, 0x21
    push ax
    and al, 0xfb
    out 0x21, al
    in al, 0xa1
    push ax
    and al, 0xfe
    out 0xa1, al
    mov al, 0xb
    out 0x70, al
    in al, 0x71
    push ax
    mov ah, al
    or ah, 0x20
    mov al, 0xb
    out 0x70, al
    mov al, ah
    out 0x71, al
    mov al, 0xc
    out 0x70, al
    in al, 0x71
    mov al, 0x30
    out 0x43, al
    mov al, 0xff
    out 0x40, al
    out 0x40, al
    xor si, si
    sti
    hlt
    cli
    test si, si
    je 0x6a
    pop ax
    mov ah, al
    mov al, 0xb
    out 0x70, al
    mov al, ah
    out 0x71, al
    pop ax
    out 0xa1, al
    pop ax
    out 0x21, al
    pop dword ptr es:[0x1c0]
    pop es
    popal
    retf
    push ax
    mov al, 0xc
    out 0x70, al
    in al, 0x71
    test al, 0x20
    je 0x9a
    mov si, 1
    mov al, 0x20
    out 0xa0, al
    out 0x20, al
    pop ax
    iret
"""


def test_the_rom_s_code_is_what_it_says():
    rom = sleep_rom.rom()
    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16)
    code = [*machine.disasm(rom[3:5], 3), *machine.disasm(rom[6:], 6)]
    expected = [line.strip() for line in ROM.strip().splitlines()]
    assert [f"{i.mnemonic} {i.op_str}".strip() for i in code[: len(expected)]] == expected
    (at,) = [i.address for i in code if i.mnemonic == "pop" and i.address == 0x29]
    assert code[-1].address < sleep_rom.SIZE
    assert rom[at + 0x63] == 0x50, "the handler begins with push ax"


def test_the_rom_is_one_that_firmware_takes_and_takes_again_when_it_has_been_called():
    rom = bytearray(sleep_rom.rom())
    assert (rom[:2], rom[2] * 512, len(rom), sum(rom) % 256) == (b"\x55\xaa", len(rom), sleep_rom.SIZE, 0)
    rom[5] += 1
    rom[0x1FF] -= 1
    assert sum(rom) % 256 == 0
