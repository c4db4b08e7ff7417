"""arm64's numbers against the kernel's own headers, where a cross compiler is at hand, and against the reference."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from guestclock.abi import arm64

HEADERS = Path("/usr/aarch64-linux-gnu/include")

NEWER = {"KVM_CAP_COUNTER_OFFSET": 227, "KVM_CAP_ARM_EL2": 240, "KVM_ARM_SET_COUNTER_OFFSET": 0x4010_AEB5}
"""What headers before 6.4 do not have."""

NOT_IN_HEADERS = (
    "KVM_ARM_VCPU_TIMER_OFFSET", "KVM_ARM_VCPU_TIMER_PHYS_OFFSET", "KVM_CAP_ARM_VTIMER_OFFSET", "KVM_PTP_",
    "KVM_REG_ARM_CORE", "KVM_REG_ARM_PTIMER", "KVM_REG_ARM_TIMER_OFFSET",
)  # fmt: skip
ELSEWHERE = {
    "KVM_REG_ARM_TIMER_CTL": 0x6030_0000_0013_DF19,
    "KVM_REG_ARM_TIMER_CNT": 0x6030_0000_0013_DF1A,
    "KVM_REG_ARM_TIMER_CVAL": 0x6030_0000_0013_DF02,
    "KVM_REG_ARM_PTIMER_CTL": 0x6030_0000_0013_DF11,
    "KVM_REG_ARM_PTIMER_CVAL": 0x6030_0000_0013_DF12,
    "KVM_REG_ARM_PTIMER_CNT": 0x6030_0000_0013_DF01,
    "KVM_REG_ARM_TIMER_OFFSET": 0x6030_0000_0013_E703,
    "KVM_REG_ARM_CORE_PC": 0x6030_0000_0010_0040,
}

OURS = {k: v for k, v in vars(arm64).items() if k.startswith("KVM_") and isinstance(v, int)}

CHECKS = """
#include <stddef.h>
#include <linux/kvm.h>
#define CHECK(what) _Static_assert(what, #what)
CHECK(sizeof(struct kvm_vcpu_init) == 32);
CHECK(offsetof(struct kvm_vcpu_init, features) == 4);
CHECK(sizeof(struct kvm_one_reg) == 16);
CHECK(offsetof(struct kvm_one_reg, addr) == 8);
CHECK(offsetof(struct kvm_reg_list, reg) == 8);
CHECK(sizeof(struct kvm_create_device) == 12);
CHECK(offsetof(struct kvm_create_device, fd) == 4);
CHECK(offsetof(struct kvm_run, mmio.phys_addr) == 32);
CHECK(offsetof(struct kvm_regs, regs.pc) == 4 * (KVM_PC & 0xffff));
CHECK(offsetof(struct kvm_regs, regs.regs[19]) == 4 * (KVM_X19 & 0xffff));
CHECK((KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE) == (KVM_PC & ~0xffffull));
CHECK(KVM_VGIC_V2_ADDR_TYPE_DIST == 0 && KVM_VGIC_V2_ADDR_TYPE_CPU == 1);
CHECK(KVM_VGIC_V3_ADDR_TYPE_DIST == 2 && KVM_VGIC_V3_ADDR_TYPE_REDIST == 3);
"""


def test_numbers_are_those_of_the_reference() -> None:
    assert {name: hex(OURS[name]) for name in ELSEWHERE | NEWER} == {k: hex(v) for k, v in (ELSEWHERE | NEWER).items()}


def c_accepts(numbers: dict[str, int], tmp_path: Path) -> bool:
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None or not (HEADERS / "linux/kvm.h").exists():
        pytest.skip("no cross compiler with linux/kvm.h here (Debian package gcc-aarch64-linux-gnu)")
    named = [n for n in numbers if n not in NEWER and not n.startswith(NOT_IN_HEADERS)]
    lines = [f"CHECK({name} == {numbers[name]:#x}ull);" for name in named]
    registers = f"#define KVM_PC {arm64.KVM_REG_ARM_CORE_PC:#x}ull\n#define KVM_X19 {arm64.core_reg_id(19):#x}ull\n"
    source = tmp_path / "numbers.c"
    source.write_text(registers + CHECKS + "\n".join(lines))
    done = subprocess.run([compiler, "-c", "-o", tmp_path / "numbers.o", source], capture_output=True, check=False)
    return done.returncode == 0


def test_numbers_and_layouts_are_those_of_the_c_headers(tmp_path: Path) -> None:
    assert c_accepts(OURS, tmp_path)
    assert not c_accepts(OURS | {"KVM_ARM_VCPU_INIT": arm64.KVM_ARM_VCPU_INIT + 1}, tmp_path)
