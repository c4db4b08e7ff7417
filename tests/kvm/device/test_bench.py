"""The benchmark above the architectures: what is counted, what is sent, which reads are taken."""

from __future__ import annotations

from typing import Any

import pytest

from guestclock.abi.kvm import KvmRun
from guestclock.errors import UserError
from guestclock.kvm.device import bench as module
from guestclock.kvm.device.arm64 import reads as arm64
from guestclock.kvm.device.arm64.bench import Arm64Bench
from guestclock.kvm.device.bench import run_bench
from guestclock.kvm.device.ioctls import IoctlError
from guestclock.kvm.device.samples import Samples
from guestclock.kvm.device.vcpu import Vcpu
from guestclock.kvm.device.x86 import reads as x86
from guestclock.kvm.device.x86.bench import X86Bench


def test_the_loops_own_end_is_no_exit_of_a_read() -> None:
    assert Samples.of([5, 4], [100, 7], [103, 9]) == Samples([5, 4], exits=2, emulated=2)
    assert Samples.of([5], [None, None], [None, None]) == Samples([5], None, None)


def test_samples_are_sent_by_size() -> None:
    sent = Samples([30, 20, 30, 20, 20], 0, None).as_json()
    assert sent == {"counts": [(20, 3), (30, 2)], "exits": 0, "emulated": None}


@pytest.mark.parametrize(
    ("exits", "emulated", "trapped"), [(3, 0, True), (2, 0, False), (0, 30, True), (None, None, False), (None, 3, True)]
)
def test_a_read_is_trapped_if_every_one_was(exits: int | None, emulated: int | None, trapped: bool) -> None:
    assert Samples([1, 1, 1], exits, emulated).trapped is trapped


class Scripted(X86Bench):
    """X86Bench without a guest: RDMSR exits or does not."""

    def __init__(self, *, rdmsr_exits: bool) -> None:
        self.asked: list[str] = []
        self._rdmsr_exits = rdmsr_exits

    def sample(self, name: str, count: int) -> Samples:
        self.asked.append(name)
        return Samples([1] * count, count if name.startswith("rdmsr") and self._rdmsr_exits else 0, 0)


@pytest.mark.parametrize(("rdmsr_exits", "left_out"), [(True, {"rdmsr-tsc-adjust"}), (False, set())])
def test_another_msr_stands_in_only_where_the_tscs_does_not_exit(rdmsr_exits: bool, left_out: set[str]) -> None:
    scripted = Scripted(rdmsr_exits=rdmsr_exits)
    taken = [name for name, _ in scripted.series(10)]
    assert taken == [name for name in x86.READS if name not in left_out]
    assert scripted.asked == [name for name in taken for _ in range(2)], "each is warmed up once"


class ScriptedArm64(Arm64Bench):
    """Arm64Bench without a guest: notes the offset that is set when a read is taken."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []
        self.offset: int | None = None
        self._vm: Any = self

    def ioctl(self, request: int, argument: bytes) -> None:
        assert hex(request) == "0x4010aeb5"
        self.offset = int.from_bytes(argument[:8], "little")
        assert argument[8:] == bytes(8)

    def sample(self, name: str, count: int) -> Samples:
        self.asked.append((name, self.offset))
        return Samples([1] * count, 0, None)


def test_an_offset_of_the_vms_is_set_before_the_last_read_and_not_earlier() -> None:
    scripted = ScriptedArm64()
    assert [name for name, _ in scripted.series(10)] == list(arm64.READS)
    assert scripted.asked[::2] == scripted.asked[1::2] == [
        ("empty", None), ("cntvct", None), ("cntpct", None), ("cntpct-offset", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("errno", ["EINTR", "EIO"])
def test_an_exit_is_completed_without_entering_the_guest(errno: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """KVM_RUN with immediate_exit, which is the host's way to say so; left as it was, whatever comes back."""

    class Halted:
        fd, run_page = 7, bytearray(64)

    asked: list[tuple[int, str, int]] = []

    def call(fd: int, request: int) -> None:
        asked.append((fd, hex(request), Halted.run_page[KvmRun.IMMEDIATE_EXIT]))
        raise IoctlError(errno, (0, 0))

    monkeypatch.setattr("guestclock.kvm.device.vcpu.call", call)
    complete_exit: Any = Vcpu.complete_exit
    if errno == "EINTR":
        complete_exit(Halted)
    else:
        with pytest.raises(IoctlError, match=errno):
            complete_exit(Halted)
    assert asked == [(7, "0xae80", 1)]
    assert Halted.run_page[KvmRun.IMMEDIATE_EXIT] == 0


@pytest.mark.parametrize("iterations", [None, 0, 100_001, "10"])
def test_a_program_without_a_number_in_range_is_refused(iterations: Any) -> None:
    with pytest.raises(UserError, match=r"iterations: expected 1\.\.100000"):
        run_bench({"iterations": iterations}, lambda line: None)


@pytest.mark.kvm
def test_what_kvm_refuses_is_one_line(kvm_answers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(kvm: Any) -> Any:
        raise IoctlError("EIO", (0, 0), "the guest ended with KVM_EXIT_SHUTDOWN, detail 0x0")

    monkeypatch.setattr(module, "_bench", refused)
    told: list[dict[str, Any]] = []
    with pytest.raises(
        UserError, match=r"^bench counter: .*: EIO \(the guest ended with KVM_EXIT_SHUTDOWN, detail 0x0\)$"
    ):
        run_bench({"iterations": 1}, told.append)
    assert [line["bench"] for line in told] == ["counter"]
