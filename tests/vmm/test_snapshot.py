"""Snapshots: the file keeps every bit, refuses what is damaged, and restoring twice gives the same bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.errors import UserError
from guestclock.kvm.api import ClockData, Host
from guestclock.scenario.snapshot_file import VERSIONS, decode, encode
from guestclock.vmm.recipe import load
from guestclock.vmm.snapshot import ARM64, X86_64, Arm64Snapshot, Arm64VcpuSnapshot, Snapshot, VcpuSnapshot
from tests.vmm.world import Operation, create, on_model

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
MAYBE_U64 = st.none() | U64
SNAPSHOTS = st.builds(
    Snapshot,
    vcpus=st.lists(
        st.builds(VcpuSnapshot, tsc=MAYBE_U64, tsc_offset=MAYBE_U64, tsc_khz=st.none() | U32, tsc_deadline=MAYBE_U64),
        min_size=1, max_size=3,
    ).map(tuple),
    clock=st.builds(ClockData, U64, st.sampled_from([0, 2, 6, 14]), U64, U64),
    realtime_ns=MAYBE_U64,
    host_tsc_khz=st.none() | U32,
    owner=st.none() | st.text(max_size=10),
)  # fmt: skip

ARM64_SNAPSHOTS = st.builds(
    Arm64Snapshot,
    vcpus=st.lists(
        st.builds(
            Arm64VcpuSnapshot, cntvct=MAYBE_U64, cntpct=MAYBE_U64, cntv_ctl=MAYBE_U64, cntv_cval=MAYBE_U64,
            cntp_ctl=MAYBE_U64, cntp_cval=MAYBE_U64, offset=MAYBE_U64,
        ),
        min_size=1, max_size=3,
    ).map(tuple),
    counter_offset=MAYBE_U64,
    host_counter=MAYBE_U64,
    realtime_ns=MAYBE_U64,
    counter_hz=st.none() | U32,
    owner=st.none() | st.text(max_size=10),
)  # fmt: skip

ARM64_ONE = Arm64Snapshot(
    vcpus=(Arm64VcpuSnapshot(cntvct=2**64 - 1, cntv_cval=2**53 + 1), Arm64VcpuSnapshot(cntpct=7, offset=0)),
    counter_offset=2**63, host_counter=123_456, realtime_ns=1_760_000_000_000_000_001, counter_hz=62_500_000,
    owner="host-a",
)  # fmt: skip

ONE = Snapshot(
    vcpus=(VcpuSnapshot(tsc=2**64 - 1, tsc_offset=2**53 + 1, tsc_khz=2_596_122), VcpuSnapshot(tsc=7)),
    clock=ClockData(123_456_789_012_345, 14, 1_760_000_000_000_000_001, 9),
    owner="host-a",
)


# ---- the file


@given(SNAPSHOTS)
def test_a_round_trip_keeps_every_bit(snapshot: Snapshot) -> None:
    data = encode(snapshot)
    assert decode(data, "x.json") == snapshot
    assert encode(decode(data, "x.json")) == data


@given(ARM64_SNAPSHOTS)
def test_an_arm64_round_trip_keeps_every_bit(snapshot: Arm64Snapshot) -> None:
    data = encode(snapshot)
    assert decode(data, "x.json", arch=ARM64) == snapshot
    assert encode(decode(data, "x.json", arch=ARM64)) == data


def test_a_negative_offset_is_written_as_its_two_s_complement() -> None:
    snapshot = replace(ONE, vcpus=(VcpuSnapshot(tsc_offset=-5),))
    assert decode(encode(snapshot), "x.json").vcpus[0].tsc_offset == 2**64 - 5


def test_what_is_no_integer_has_no_file() -> None:
    with pytest.raises(AssertionError, match="float"):
        encode(replace(ONE, realtime_ns=1.0))


def edited(path: str, value: object, of: Snapshot | Arm64Snapshot = ONE) -> bytes:
    """A snapshot's file with one value changed (or, with `...`, taken out) and no checksum."""
    whole = json.loads(encode(of))
    del whole["crc32"]
    place = whole
    *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in keys:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(whole).encode()


REFUSED = [
    ("guestclock_snapshot", 3, "guestclock_snapshot: version 3, this program reads up to 2"),
    ("guestclock_snapshot", "1", "guestclock_snapshot: '1', expected a version, 1 to 2"),
    ("guestclock_snapshot", True, "guestclock_snapshot: True, expected a version, 1 to 2"),
    ("guestclock_snapshot", 0, "guestclock_snapshot: 0, expected a version, 1 to 2"),
    ("guestclock_snapshot", ..., "guestclock_snapshot: missing; not a snapshot of guestclock"),
    ("arch", "arm64", "arch: 'arm64', expected this machine's, 'x86_64'"),
    ("arch", "riscv", "arch: 'riscv', expected 'x86_64' or 'arm64'"),
    ("arch", ..., "arch: missing"),
    ("owner", 3, "owner: expected text or null, got an integer"),
    ("clock", None, "clock: expected an object, got null"),
    ("clock.clock_ns", -1, "clock.clock_ns: expected an integer >= 0"),
    ("clock.host_tsc", 2**64, "clock.host_tsc: 18446744073709551616, expected at most 2^64 - 1"),
    ("clock.realtime_ns", 1.76e18, "clock.realtime_ns: 1.76e+18, expected an integer"),
    ("clock.realtime_ns", "1760", "clock.realtime_ns: expected an integer, got text"),
    ("clock.flags", 3, "clock.flags: 3, expected a sum of 2, 4 and 8"),
    ("clock.flags", 16, "clock.flags: expected an integer <= 14"),
    ("clock.flags", ..., "clock.flags: missing"),
    ("vcpus", [], "vcpus: expected a list of length >= 1"),
    ("vcpus.1.tsc", ..., "vcpus[1].tsc: missing"),
    ("vcpus.1.tsc", True, "vcpus[1].tsc: expected an integer or null, got true"),
    ("vcpus.1.tcs", 3, "vcpus[1].tcs: unknown field"),
    ("vcpus.0.tsc_khz", 2**32, "vcpus[0].tsc_khz: 4294967296, expected at most 2^32 - 1"),
    ("vcpus.0.arm64_cntvct", 3, "vcpus[0].arm64_cntvct: 3, expected null on x86_64"),
    ("arm64_counter_offset", 3, "arm64_counter_offset: 3, expected null on x86_64"),
    ("surplus", 3, "surplus: unknown field"),
    ("guestclock_snapshot", 2, "guestclock_snapshot: version 2, expected 1, which x86_64 is written in"),
]

REFUSED_ARM64 = [
    ("guestclock_snapshot", 1, "guestclock_snapshot: version 1, expected 2, which arm64 is written in"),
    ("guestclock_snapshot", 3, "guestclock_snapshot: version 3, this program reads up to 2"),
    ("arch", "x86_64", "arch: 'x86_64', expected this machine's, 'arm64'"),
    ("counter_offset", ..., "counter_offset: missing"),
    ("counter_offset", -1, "counter_offset: expected an integer >= 0"),
    ("counter_offset", 2**64, "counter_offset: 18446744073709551616, expected at most 2^64 - 1"),
    ("counter_hz", 2**32, "counter_hz: 4294967296, expected at most 2^32 - 1"),
    ("counter_hz", 6.25e7, "counter_hz: 62500000.0, expected an integer"),
    ("host_counter", "5", "host_counter: expected an integer or null, got text"),
    ("realtime_ns", ..., "realtime_ns: missing"),
    ("clock", None, "clock: unknown field"),
    ("vcpus", [], "vcpus: expected a list of length >= 1"),
    ("vcpus.1.cntvct", ..., "vcpus[1].cntvct: missing"),
    ("vcpus.0.cntv_cval", 2**64, "vcpus[0].cntv_cval: 18446744073709551616, expected at most 2^64 - 1"),
    ("vcpus.0.tsc", 3, "vcpus[0].tsc: unknown field"),
    ("owner", 3, "owner: expected text or null, got an integer"),
]


@pytest.mark.parametrize(("path", "value", "told"), REFUSED, ids=lambda v: str(v)[:30])
def test_what_cannot_be_right_is_refused_by_the_fields_name(path: str, value: object, told: str) -> None:
    with pytest.raises(UserError) as mistake:
        decode(edited(path, value), "snap.json")
    assert str(mistake.value) == f"snap.json: {told}"


@pytest.mark.parametrize(("path", "value", "told"), REFUSED_ARM64, ids=lambda v: str(v)[:30])
def test_what_cannot_be_right_on_arm64_is_refused_too(path: str, value: object, told: str) -> None:
    with pytest.raises(UserError) as mistake:
        decode(edited(path, value, ARM64_ONE), "snap.json", arch=ARM64)
    assert str(mistake.value) == f"snap.json: {told}"


def test_the_unedited_ones_are_not_refused() -> None:
    assert decode(edited("owner", "host-a"), "snap.json") == ONE
    assert decode(edited("owner", "host-a", ARM64_ONE), "snap.json", arch=ARM64) == ARM64_ONE


BOTH = [(ONE, X86_64), (ARM64_ONE, ARM64)]


@pytest.mark.parametrize(("one", "arch"), BOTH)
def test_every_flipped_digit_is_noticed(one: Snapshot | Arm64Snapshot, arch: str) -> None:
    data = encode(one)
    digits = [at for at, byte in enumerate(data) if chr(byte).isdigit()]
    assert len(digits) > 80
    for at in digits:
        damaged = bytearray(data)
        damaged[at] = ord("1" if damaged[at] != ord("1") else "2")
        with pytest.raises(UserError):
            decode(bytes(damaged), "snap.json", arch=arch)


@pytest.mark.parametrize(("one", "arch"), BOTH)
def test_every_truncation_is_noticed(one: Snapshot | Arm64Snapshot, arch: str) -> None:
    data = encode(one)
    for end in range(len(data.rstrip())):
        with pytest.raises(UserError, match=r"^snap\.json: "):
            decode(data[:end], "snap.json", arch=arch)


@pytest.mark.parametrize("data", [b"[]", b"3", b"null", b'"x"', b"\xff\xfe", b"{}"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(UserError, match=r"^snap\.json: "):
        decode(data, "snap.json")


def test_the_versions_are_those_that_are_documented() -> None:
    assert [json.loads(encode(one))["guestclock_snapshot"] for one, _ in BOTH] == [1, 2]
    assert VERSIONS == {X86_64: 1, ARM64: 2}


# ---- save, file, restore


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("firecracker-restore", "linux-6.12"), ("best-since-5.16", "linux-6.12"), ("best-since-5.16", "linux-5.16"),
        ("best-before-5.16", "linux-5.15"), ("cloud-hypervisor-restore", "linux-6.12"), ("qemu-migrate", "linux-5.4"),
    ],
)  # fmt: skip
def test_by_way_of_a_file_everything_is_the_same(name: str, kernel: str) -> None:
    recipe = load(name)
    plain = on_model(Operation(recipe).run, kernel)
    by_file = on_model(Operation(recipe, through=lambda s: decode(encode(s), "x.json")).run, kernel)
    assert by_file.snapshot == plain.snapshot
    assert by_file.after == plain.after


# ---- twice


def restored_twice(name: str, kernel: str) -> Iterator[list[int]]:
    """Each vCPU's TSC offset after a restore, after the same again a second later, and on another VM."""
    recipe = load(name)

    async def world(khz: int) -> list[list[int]]:
        host = Host()
        source = await create(host, 2)
        for vcpu in (*source.vcpus, *source.vcpus):
            await vcpu.run()
        await host.wait(10**9)
        snapshot = await recipe.save(source)
        image = encode(snapshot)
        seen = []
        for fresh in (True, False, True):
            if fresh:
                vm = await create(host, 2)
            await recipe.restore(vm, decode(image, "x.json"))
            seen.append([await vcpu.get_tsc_offset() for vcpu in vm.vcpus])
            await host.wait(10**9)
        assert encode(snapshot) == image
        return seen

    yield from on_model(world, kernel)


def test_restoring_offsets_twice_gives_the_same_bits() -> None:
    for kernel in ("linux-5.16", "linux-6.7", "linux-6.12"):
        first, again, elsewhere = restored_twice("offset-restore", kernel)
        assert first == again == elsewhere


def test_restoring_values_twice_does_not() -> None:
    first, again, elsewhere = restored_twice("by-value-restore", "linux-6.12")
    assert first != elsewhere
    assert first != again


def test_what_is_saved_after_a_restore_is_what_was_restored() -> None:
    recipe = load("offset-restore")

    async def world(khz: int) -> tuple[Snapshot, Snapshot]:
        host = Host()
        source = await create(host, 2)
        for vcpu in (*source.vcpus, *source.vcpus):
            await vcpu.run()
        snapshot = await recipe.save(source)
        vm = await create(host, 2)
        await recipe.restore(vm, snapshot)
        return snapshot, await recipe.save(vm)

    first, second = on_model(world, "linux-6.12")
    assert second.vcpus == first.vcpus
    passed_ns = second.clock.realtime_ns - first.clock.realtime_ns
    assert 0 <= second.clock.clock_ns - first.clock.clock_ns - passed_ns < 1_000  # REALTIME is read after the snapshot
