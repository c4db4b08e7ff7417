"""The arm64 machine: its command line, and the device tree of one that can sleep."""

from __future__ import annotations

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab, LabError, arm64, fdt


def command_of(*, recorded: bool = False, sleeps: bool = False, **options: object) -> list[str]:
    machine = Lab("6.12", arch="arm64", **options).machine
    if sleeps:
        machine = machine.that_sleeps()
    return [*machine.hardware(recorded=recorded), *machine.boots(kernel="/k", initrd="/i")]


def value_of(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_virtual_time_needs_all_of_its_conditions():
    command = command_of()
    assert value_of(command, "-icount") == "shift=0,sleep=off"
    assert value_of(command, "-rtc") == "base=2025-01-01T00:00:00,clock=vm"
    assert value_of(command, "-machine") == "virt,virtualization=on,gic-version=3,dtb-randomness=off"
    words = value_of(command, "-append").split()
    assert {"nokaslr", "randomize_kstack_offset=off", "console=ttyAMA0"} <= set(words)
    assert value_of(command_of(recorded=True), "-icount").endswith("rr=record,rrfile=/dev/null")
    assert not {"-icount", "-rtc", "-seed"} & set(command_of(deterministic=False))


@pytest.mark.parametrize(
    ("cpu", "model", "mode"),
    [
        ("", "neoverse-n1", ""),
        ("neoverse-n1-nvhe", "neoverse-n1", "kvm-arm.mode=nvhe"),
        ("cortex-a72", "cortex-a72", ""),
    ],
)
def test_a_cpu_is_a_model_and_a_mode(cpu, model, mode):
    command = command_of(cpu=cpu)
    assert value_of(command, "-cpu") == f"{model},cntfrq=62499871"
    assert ("kvm-arm.mode" in value_of(command, "-append")) == bool(mode)
    assert mode in value_of(command, "-append")


def test_the_counter_s_frequency_is_what_is_asked_for():
    assert value_of(command_of(counter_hz=10**9), "-cpu") == "neoverse-n1,cntfrq=1000000000"
    assert 10**9 // arm64.ODD_COUNTER_HZ == 16, "truly 62.5 MHz"


def test_one_that_sleeps_has_another_interrupt_controller():
    assert "gic-version=2" in value_of(command_of(sleeps=True), "-machine")
    assert command_of(sleeps=True) != command_of()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu": "cortex-a57"}, "lab: cpu 'cortex-a57': expected one of neoverse-n1, neoverse-n1-nvhe, cortex-a72"),
        ({"counter_hz": 0}, "lab: counter_hz 0: expected 1 to 1000000000"),
        ({"counter_hz": 10**9 + 1}, "lab: counter_hz 1000000001: expected 1 to 1000000000"),
        ({"arch": "x86", "cpu": "cortex-a72"}, "lab: cpu 'cortex-a72': an x86 lab has one kind of CPU only"),
        ({"arch": "mips"}, "lab: architecture 'mips': expected x86 or arm64"),
    ],
)
def test_bad_options_are_refused_at_once(options, message):
    with pytest.raises(UserError) as told:
        Lab("6.12", **({"arch": "arm64"} | options))
    assert str(told.value) == message


# ---- device trees


def tree(*cpus: fdt.Node) -> bytes:
    return fdt.write(fdt.Tree(fdt.Node("", {}, [fdt.Node("cpus", {}, [fdt.Node("cpu-map"), *cpus]), fdt.Node("psci")])))


def test_every_cpu_gets_the_idle_state():
    one = fdt.Node("cpu@0", {"phandle": fdt.cells(7)})
    other = fdt.Node("cpu@1", {"enable-method": fdt.string("spin-table")})
    changed = fdt.read(arm64.with_idle_state(tree(one, other)))
    plain, first, second, states = changed.root.child("cpus").children
    (state,) = states.children
    assert states.properties == {"entry-method": b"psci\0"}
    assert state.properties["compatible"] == b"arm,idle-state\0"
    assert first.properties["cpu-idle-states"] == second.properties["cpu-idle-states"] == state.properties["phandle"]
    assert state.properties["phandle"] == fdt.cells(8)
    assert (first.properties["enable-method"], second.properties["enable-method"]) == (b"psci\0", b"spin-table\0")
    assert plain.properties == {}


def test_qemu_s_tree_is_asked_for_only_where_it_has_to_be_changed(tmp_path):
    asked = tmp_path / "asked"
    fake = tmp_path / "qemu"
    blob = tmp_path / "blob"
    blob.write_bytes(tree(fdt.Node("cpu@0")))
    fake.write_text(f'#!/bin/sh\necho "$@" >> {asked}\nfile=${{2##*dumpdtb=}}\ncp {blob} "$file"\n')
    fake.chmod(0o755)
    machine = Lab("6.12", arch="arm64").machine
    assert machine.device_tree([str(fake)]) == b""
    assert not asked.exists()
    described = machine.that_sleeps().device_tree([str(fake)])
    assert fdt.read(described) == fdt.read(arm64.with_idle_state(blob.read_bytes()))
    assert machine.that_sleeps().device_tree([str(fake)]) == described
    assert len(asked.read_text().splitlines()) == 1, "once for each machine"
    assert "gic-version=2" in asked.read_text()


def test_a_qemu_that_makes_none_is_quoted(tmp_path):
    fake = tmp_path / "qemu"
    fake.write_text("#!/bin/sh\necho no such machine >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(LabError, match=r"made no device tree \(status 1\): no such machine"):
        Lab("6.12", arch="arm64").machine.that_sleeps().device_tree([str(fake)])
