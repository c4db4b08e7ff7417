"""The tracepoints' texts, character by character (kvm-x86.md section 6)."""

from __future__ import annotations

import re

from tests.kvm.model.x86.bench import TSC, Bench, vm_with

from guestclock.kvm.api import Host, SetClocksource
from guestclock.machine import HostSpec

# What the kernel's printf formats can give.
TEXTS = {
    "kvm_write_tsc_offset": r"vcpu=\d+ prev=\d+ next=\d+",
    "kvm_track_tsc": r"vcpu_id \d+ masterclock [01] offsetmatched \d+ nr_online \d+ hostclock (none|tsc|0x[23])",
    "kvm_update_master_clock": r"masterclock [01] hostclock (none|tsc|0x[23]) offsetmatched [01]",
    "kvm_pvclock_update": (
        r"vcpu_id \d+, pvclock \{ version \d+, tsc_timestamp 0x[0-9a-f]+, system_time 0x[0-9a-f]+,"
        r" tsc_to_system_mul 0x[0-9a-f]+, tsc_shift -?\d+, flags 0x[0-9a-f]+ \}"
    ),
}


async def eventful(host: Host) -> None:
    vm = await vm_with(host, 2)
    for vcpu in vm.vcpus * 2:
        await vcpu.run()
    await vm.vcpus[0].set_tsc_offset(2**64 - 1)
    await SetClocksource("hpet")
    await vm.set_clock(5)
    for vcpu in vm.vcpus * 2:
        await vcpu.run()
    await vm.vcpus[0].set_msr(TSC, 5)


def test_every_text_is_one_of_the_kernels():
    bench = Bench()
    bench.run(eventful)
    for name, text in TEXTS.items():
        events = bench.tracepoints(name)
        assert len(events) > 3, name
        for event in events:
            assert re.fullmatch(text, event.data["text"]), event.data["text"]


def test_texts_in_full():
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 2)
        await vm.vcpus[0].run()
        await vm.vcpus[0].set_tsc_offset(2**64 - 1)

    bench.run(recipe)
    first = bench.spec.first_tsc
    assert [e.data["text"] for e in bench.trace.of("tracepoint")] == [
        "masterclock 0 hostclock tsc offsetmatched 0",
        f"vcpu=0 prev=0 next={2**64 - first}",
        "vcpu_id 0 masterclock 0 offsetmatched 0 nr_online 1 hostclock tsc",
        f"vcpu=1 prev=0 next={2**64 - first}",
        "vcpu_id 1 masterclock 0 offsetmatched 1 nr_online 2 hostclock tsc",
        "masterclock 1 hostclock tsc offsetmatched 1",
        "vcpu_id 0, pvclock { version 2, tsc_timestamp 0x0, system_time 0x0, tsc_to_system_mul 0xc5379ca5,"
        " tsc_shift -1, flags 0x1 }",
        f"vcpu=0 prev={2**64 - first} next={2**64 - 1}",
        "vcpu_id 0 masterclock 1 offsetmatched 0 nr_online 2 hostclock tsc",
    ]


def test_clocks_without_a_name_come_out_in_hex():
    for name, told in (("tsc", "tsc"), ("hpet", "none"), ("kvm-clock", "0x2"), ("hyperv", "0x3")):
        bench = Bench(spec=HostSpec(clocksource=name))
        bench.run(lambda host: vm_with(host, 1))
        assert {e.data["text"].split("hostclock ")[1].split()[0] for e in bench.tracepoints("kvm_track_tsc")} == {told}


def test_a_guest_of_a_host_on_kvm_clock_never_gets_a_masterclock():
    async def flags(host: Host) -> int:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].run()
        await vm.set_clock(5)
        return (await vm.get_clock()).flags

    clocks = ("tsc", "hpet", "kvm-clock", "hyperv")
    assert [Bench(spec=HostSpec(clocksource=c)).run(flags) for c in clocks] == [14, 0, 0, 14]
