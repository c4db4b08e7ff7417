"""Our numbers against the table of the reference, and against the C headers where a compiler is at hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from guestclock.abi import ioctl

TABLE = {
    "KVM_GET_API_VERSION": 0xAE00,
    "KVM_CREATE_VM": 0xAE01,
    "KVM_CHECK_EXTENSION": 0xAE03,
    "KVM_GET_VCPU_MMAP_SIZE": 0xAE04,
    "KVM_GET_SUPPORTED_CPUID": 0xC008AE05,
    "KVM_CREATE_VCPU": 0xAE41,
    "KVM_SET_USER_MEMORY_REGION": 0x4020AE46,
    "KVM_SET_TSS_ADDR": 0xAE47,
    "KVM_CREATE_IRQCHIP": 0xAE60,
    "KVM_SET_BOOT_CPU_ID": 0xAE78,
    "KVM_XEN_HVM_CONFIG": 0x4038AE7A,
    "KVM_SET_CLOCK": 0x4030AE7B,
    "KVM_GET_CLOCK": 0x8030AE7C,
    "KVM_RUN": 0xAE80,
    "KVM_GET_REGS": 0x8090AE81,
    "KVM_SET_REGS": 0x4090AE82,
    "KVM_GET_SREGS": 0x8138AE83,
    "KVM_SET_SREGS": 0x4138AE84,
    "KVM_GET_MSRS": 0xC008AE88,
    "KVM_SET_MSRS": 0x4008AE89,
    "KVM_SET_CPUID2": 0x4008AE90,
    "KVM_GET_CPUID2": 0xC008AE91,
    "KVM_SET_TSC_KHZ": 0xAEA2,
    "KVM_GET_TSC_KHZ": 0xAEA3,
    "KVM_KVMCLOCK_CTRL": 0xAEAD,
    "KVM_GET_STATS_FD": 0xAECE,
    "KVM_CREATE_DEVICE": 0xC00CAEE0,
    "KVM_SET_DEVICE_ATTR": 0x4018AEE1,
    "KVM_GET_DEVICE_ATTR": 0x4018AEE2,
    "KVM_HAS_DEVICE_ATTR": 0x4018AEE3,
}

OURS = {k: v for k, v in vars(ioctl).items() if k.startswith("KVM_") and isinstance(v, int)}


@pytest.mark.parametrize("name", TABLE)
def test_numbers_are_those_of_the_reference(name: str) -> None:
    assert hex(OURS[name]) == hex(TABLE[name])


def test_numbers_and_capabilities_are_those_of_the_c_headers(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not Path("/usr/include/linux/kvm.h").exists():
        pytest.skip("no C compiler with linux/kvm.h here")
    body = "".join(f'#ifdef {n}\nprintf("{n} %llu\\n", (unsigned long long)({n}));\n#endif\n' for n in OURS)
    source = tmp_path / "numbers.c"
    source.write_text(f"#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) {{\n{body}return 0;\n}}\n")
    subprocess.run([compiler, "-o", tmp_path / "numbers", source], check=True)
    said = subprocess.run([tmp_path / "numbers"], capture_output=True, text=True, check=True).stdout.split("\n")
    theirs = {name: int(value) for name, value in (line.split() for line in said if line)}
    assert len(theirs) > 40
    assert {name: OURS[name] for name in theirs} == theirs
