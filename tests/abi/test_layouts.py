"""Codecs against the reference's offsets, and against the C structs where a compiler is at hand."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from struct import pack, unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.abi.cpuid import CpuidEntry, find, pack_cpuid, unpack_cpuid
from guestclock.abi.kvm import (
    HvReferenceTscPage,
    KvmClockData,
    KvmDeviceAttr,
    KvmOneMsr,
    KvmRegs,
    KvmRun,
    KvmSregs,
    KvmUserspaceMemoryRegion,
    pack_xen_shared_info,
)
from guestclock.abi.pvclock import PvclockVcpuTimeInfo, PvclockWallClock
from guestclock.abi.stats import KvmStatsDesc, KvmStatsHeader

u8, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 32, 64))


def test_sizes_are_those_of_the_reference() -> None:
    assert (KvmClockData.SIZE, KvmRegs.SIZE, KvmSregs.SIZE) == (48, 144, 312)
    assert (KvmUserspaceMemoryRegion.SIZE, KvmDeviceAttr.SIZE, CpuidEntry.SIZE) == (32, 24, 40)
    assert (PvclockVcpuTimeInfo.SIZE, PvclockWallClock.SIZE, KvmOneMsr.SIZE) == (32, 12, 24)
    assert len(pack_xen_shared_info(3)) == 72


def test_a_pvclock_page_has_its_fields_where_the_guest_looks() -> None:
    raw = PvclockVcpuTimeInfo(2, 0x1122334455667788, 5_000_000_000, 0xC5379CA5, -1, 3).pack()
    assert unpack_from("<I", raw, 0) == (2,)
    assert unpack_from("<QQ", raw, 8) == (0x1122334455667788, 5_000_000_000)
    assert unpack_from("<IbB", raw, 24) == (0xC5379CA5, -1, 3)


@given(st.tuples(u32, u64, u64, u32, st.integers(-128, 127), u8))
def test_a_pvclock_page_comes_back_as_it_was(values: tuple[int, int, int, int, int, int]) -> None:
    page = PvclockVcpuTimeInfo(*values)
    assert PvclockVcpuTimeInfo.unpack(page.pack()) == page


@given(u64, u32, u64, u64)
def test_clock_data_comes_back_as_it_was(clock: int, flags: int, realtime: int, host_tsc: int) -> None:
    data = KvmClockData(clock, flags, realtime, host_tsc)
    assert KvmClockData.unpack(data.pack()) == data
    assert unpack_from("<QI4xQQ", data.pack()) == (clock, flags, realtime, host_tsc)


@given(u32, u64)
def test_one_msr_comes_back_as_it_was(index: int, data: int) -> None:
    msr = KvmOneMsr(index, data)
    assert KvmOneMsr.unpack(msr.pack()) == msr
    assert unpack_from("<I", msr.pack()) == (1,)


def test_registers_are_in_the_kernels_order() -> None:
    regs = KvmRegs(**{f.name: i for i, f in enumerate(fields(KvmRegs))})
    assert unpack_from("<18Q", regs.pack()) == tuple(range(18))
    assert KvmRegs.unpack(regs.pack()) == regs


def test_a_real_mode_segment_changes_base_and_selector_only() -> None:
    before = bytes(range(256)) + bytes(56)
    sregs = KvmSregs(before)
    sregs.set_real_mode_segment("ss", 0x1200)
    base, limit, selector = sregs.segment("ss")
    assert (base, selector) == (0x12000, 0x1200)
    assert limit == unpack_from("<I", before, 5 * 24 + 8)[0]
    after = sregs.pack()
    assert after[: 5 * 24] == before[: 5 * 24]
    assert after[5 * 24 + 14 :] == before[5 * 24 + 14 :]


@pytest.mark.parametrize("ring", [0, 3])
def test_long_mode_is_set_and_the_rest_is_left(ring: int) -> None:
    before = bytes(range(256)) + bytes(56)
    sregs = KvmSregs(before)
    sregs.set_long_mode(0x20_0000, ring)
    after = sregs.pack()
    segment = "<QIH9B"  # base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable
    assert unpack_from(segment, after) == (0, 2**32 - 1, 0x08 | ring, 11, 1, ring, 0, 1, 1, 1, 0, 0)
    for name in ("ds", "es", "fs", "gs", "ss"):
        data = unpack_from(segment, after, KvmSregs.SEGMENTS[name])
        assert data == (0, 2**32 - 1, 0x10 | ring, 3, 1, ring, 1, 1, 0, 1, 0, 0)
    cr0, _, cr3, cr4, _, efer = unpack_from("<6Q", after, KvmSregs.CR0_OFFSET)
    assert (hex(cr0), cr3, hex(cr4), hex(efer)) == ("0x80010033", 0x20_0000, "0x20", "0x500")
    assert after[6 * 24 : KvmSregs.CR0_OFFSET] == before[6 * 24 : KvmSregs.CR0_OFFSET]
    assert after[KvmSregs.CR0_OFFSET + 48 :] == before[KvmSregs.CR0_OFFSET + 48 :]


def test_statistics_are_found_by_name() -> None:
    raw = pack("<IhHII", 0x41, -9, 1, 904, 0) + b"exits".ljust(48, b"\0")
    assert KvmStatsDesc.unpack(raw) == KvmStatsDesc(0x41, -9, 1, 904, 0, "exits")
    header = KvmStatsHeader.unpack(pack("<6I", 0, 48, 47, 24, 72, 3080))
    assert header == KvmStatsHeader(flags=0, name_size=48, num_desc=47, id_offset=24, desc_offset=72, data_offset=3080)


def test_a_reference_tsc_page_has_signed_offset() -> None:
    page = HvReferenceTscPage(1, 0xFC7024AA3D70A3, -5)
    assert HvReferenceTscPage.unpack(page.pack()) == page
    assert unpack_from("<q", page.pack(), 16) == (-5,)


def test_cpuid_entries_are_found_by_leaf_and_subleaf() -> None:
    entries = [CpuidEntry(1, 0, 0, 1, 2, 3, 4), CpuidEntry(7, 0, 1, 2, 2, 0, 0), CpuidEntry(7, 1, 1, 9, 0, 0, 0)]
    raw = pack_cpuid(entries, room=8)
    assert len(raw) == 8 + 8 * 40
    assert unpack_cpuid(pack_cpuid(entries)) == entries
    assert find(entries, 7, 1) == entries[2]
    assert find(entries, 1, 5) == entries[0]
    assert find(entries, 0x40000001) is None


CHECKS = """
#include <stddef.h>
#include <linux/kvm.h>
#define CHECK(what) _Static_assert(what, #what)
CHECK(sizeof(struct kvm_clock_data) == 48);
CHECK(offsetof(struct kvm_clock_data, realtime) == 16);
CHECK(offsetof(struct kvm_clock_data, host_tsc) == 24);
CHECK(sizeof(struct kvm_regs) == 144);
CHECK(offsetof(struct kvm_regs, rsi) == 32);
CHECK(offsetof(struct kvm_regs, rip) == 128);
CHECK(sizeof(struct kvm_sregs) == 312);
CHECK(offsetof(struct kvm_sregs, ss) == %(ss)d);
CHECK(offsetof(struct kvm_sregs, cr0) == %(cr0)d);
CHECK(sizeof(struct kvm_segment) == 24);
CHECK(offsetof(struct kvm_segment, selector) == 12);
CHECK(offsetof(struct kvm_msrs, entries) == 8);
CHECK(offsetof(struct kvm_msr_entry, data) == 8);
CHECK(sizeof(struct kvm_userspace_memory_region) == 32);
CHECK(offsetof(struct kvm_userspace_memory_region, userspace_addr) == 24);
CHECK(offsetof(struct kvm_device_attr, addr) == 16);
CHECK(sizeof(struct kvm_cpuid_entry2) == 40);
CHECK(offsetof(struct kvm_run, immediate_exit) == %(immediate_exit)d);
CHECK(offsetof(struct kvm_run, exit_reason) == %(exit_reason)d);
CHECK(offsetof(struct kvm_run, io) == %(union)d);
CHECK(offsetof(struct kvm_xen_hvm_attr, u) == 8);
CHECK(sizeof(struct kvm_stats_header) == 24);
CHECK(offsetof(struct kvm_stats_header, data_offset) == 20);
CHECK(offsetof(struct kvm_stats_desc, size) == 6);
CHECK(offsetof(struct kvm_stats_desc, offset) == 8);
CHECK(offsetof(struct kvm_stats_desc, name) == %(stats_name)d);
CHECK(offsetof(struct kvm_sregs, efer) == offsetof(struct kvm_sregs, cr0) + 5 * 8);
CHECK(offsetof(struct kvm_segment, l) == 19);
CHECK(sizeof(struct kvm_xen_hvm_attr) == 72);
"""


def c_accepts(checks: str, tmp_path: Path) -> bool:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not Path("/usr/include/linux/kvm.h").exists():
        pytest.skip("no C compiler with linux/kvm.h here")
    source = tmp_path / "layouts.c"
    source.write_text(checks)
    done = subprocess.run([compiler, "-c", "-o", tmp_path / "layouts.o", source], capture_output=True, check=False)
    return done.returncode == 0


OFFSETS = {
    "ss": KvmSregs.SEGMENTS["ss"],
    "cr0": KvmSregs.CR0_OFFSET,
    "immediate_exit": KvmRun.IMMEDIATE_EXIT,
    "exit_reason": KvmRun.EXIT_REASON,
    "union": KvmRun.UNION,
    "stats_name": KvmStatsDesc.FIXED,
}


def test_offsets_are_those_of_the_c_structs(tmp_path: Path) -> None:
    assert c_accepts(CHECKS % OFFSETS, tmp_path)


@pytest.mark.parametrize("name", OFFSETS)
def test_the_c_check_refuses_a_wrong_offset(name: str, tmp_path: Path) -> None:
    assert not c_accepts(CHECKS % {**OFFSETS, name: OFFSETS[name] + 8}, tmp_path)
