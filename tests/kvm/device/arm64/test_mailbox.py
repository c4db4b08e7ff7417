"""The mailbox as the guest leaves it, a Run's actions as commands, and the answers they become."""

from __future__ import annotations

from struct import pack_into
from typing import Any

import pytest

from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.device.arm64 import guest
from guestclock.kvm.device.arm64.entry import answers, commands
from guestclock.kvm.device.ioctls import IoctlError

STAMPS = (1000, 2000)


@pytest.fixture
def memory() -> memoryview:
    return memoryview(bytearray(guest.MEMORY_SIZE))


def test_a_mailbox_gives_back_what_the_guest_left(memory: memoryview) -> None:
    mailbox = guest.Mailbox(memory, 3)
    mailbox.put([guest.Command(guest.READ), guest.Command(guest.MSR, 7, x=(5, 0, 0, 0))])
    at = guest.mailbox_gpa(3) - guest.MEMORY_GPA
    assert memory[at + guest.STOP] == 1
    pack_into("<3Q", memory, at + guest.COMMANDS + 16, 10, 20, 11)
    first, second, end = mailbox.take(3)
    assert first.x[:3] == (10, 20, 11)
    assert second == guest.Command(guest.MSR, 7, x=(5, 0, 0, 0))
    assert end.command == guest.HALT


@pytest.mark.parametrize(
    ("since", "now", "told"),
    [
        (4, 4, False),  # nothing new
        (4, 5, False),  # one is under way
        (4, 6, True),  # begun and ended since
        (5, 6, False),  # it was under way when we looked first
        (5, 8, True),
        (2**32 - 2, 0, True),
        (2**32 - 1, 0, False),
        (2**32 - 1, 2, True),
    ],
)
def test_only_a_round_that_began_later_is_a_sample(memory: memoryview, since: int, now: int, told: bool) -> None:
    mailbox = guest.Mailbox(memory, 0)
    at = guest.mailbox_gpa(0) - guest.MEMORY_GPA
    pack_into("<I", memory, at + guest.SEQUENCE, now)
    pack_into("<3Q", memory, at + guest.SAMPLE, 7, 8, 9)
    assert mailbox.sample(since) == ((7, 8, 9) if told else None)


@pytest.mark.parametrize(("was", "restarted"), [(4, 4), (5, 6), (2**32 - 1, 0)])
def test_a_guest_that_begins_anew_is_in_no_round(memory: memoryview, was: int, restarted: int) -> None:
    mailbox = guest.Mailbox(memory, 0)
    pack_into("<I", memory, guest.mailbox_gpa(0) - guest.MEMORY_GPA + guest.SEQUENCE, was)
    mailbox.restart()
    assert mailbox.sequence == restarted


ACTIONS: tuple[api.GuestAction, ...] = (
    api.ReadCounters(),
    api.ReadSysreg("CNTFRQ_EL0"),
    api.WriteSysreg("CNTV_CVAL_EL0", -1),
    api.Hvc(0x8600_0001, 1),
)


def test_an_action_is_a_command_and_its_answer_comes_back() -> None:
    asked = commands(ACTIONS)
    assert [c.command for c in asked] == [guest.READ, guest.MRS, guest.MSR, guest.HVC]
    assert (guest.SYSREGS[asked[1].index], guest.SYSREGS[asked[2].index]) == ("CNTFRQ_EL0", "CNTV_CVAL_EL0")
    assert asked[2].x[0] == 2**64 - 1
    assert asked[3].x == (0x8600_0001, 1, 0, 0)
    left = [guest.Command(c.command, c.index, x=(11, 12, 13, 14)) for c in asked]
    assert answers(ACTIONS, left, STAMPS) == [api.CounterReading(11, 12, 13, STAMPS), 11, None, (11, 12, 13, 14)]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (1, "the guest's MRS of CNTFRQ_EL0 faulted, ESR_EL1 0x2000000"),
        (2, "the guest's MSR of CNTV_CVAL_EL0 faulted, ESR_EL1 0x2000000"),
        (3, "the guest's HVC faulted, ESR_EL1 0x2000000"),
    ],
)
def test_a_fault_names_the_instruction(at: int, message: str) -> None:
    left = [guest.Command(c.command, c.index, 0x200_0000 if i == at else 0) for i, c in enumerate(commands(ACTIONS))]
    with pytest.raises(IoctlError) as fault:
        answers(ACTIONS, left, STAMPS)
    assert (fault.value.errno, fault.value.why, fault.value.stamps) == ("EFAULT", message, STAMPS)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ((api.EnterL2(0),), "Run: EnterL2: this guest is no hypervisor; run it on the model"),
        ((api.ExitL2(),), "Run: ExitL2: this guest is no hypervisor; run it on the model"),
        ((api.ReadClocks(),), "Run: ReadClocks: an arm64 guest has nothing of the kind"),
        (
            (api.ReadSysreg("CNTVOFF_EL2"),),
            "Run: system register 'CNTVOFF_EL2': expected one of CNTFRQ_EL0, CNTPCT_EL0",
        ),
        ((api.ReadCounters(),) * 63, "Run: 63 actions, the guest's mailbox holds 62"),
    ],
)
def test_what_the_guest_cannot_do_is_refused_before_it_runs(actions: Any, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        commands(actions)
    assert str(refusal.value).startswith(message)
