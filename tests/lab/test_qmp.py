from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from guestclock.lab import qmp

GREETING = {"QMP": {"version": {}, "capabilities": []}}


class FakeQemu:
    """The other end: answers each command with what it was told to say, after the events that it was told to tell."""

    def __init__(self, channel: socket.socket, *answers: list[dict]) -> None:
        self.channel, self.answers = channel, list(answers)
        self.asked: list[dict] = []
        self.descriptors: list[int] = []
        self.thread = threading.Thread(target=self.talk)
        self.thread.start()

    def say(self, message: dict) -> None:
        self.channel.sendall(json.dumps(message).encode() + b"\r\n")

    def talk(self) -> None:
        self.say(GREETING)
        for answer in self.answers:
            data, descriptors, *_ = socket.recv_fds(self.channel, 65536, 4)
            self.descriptors += descriptors
            self.asked.append(json.loads(data))
            for message in answer:
                self.say(message)
        self.channel.close()


@pytest.fixture
def fake() -> Iterator[Callable[..., tuple[FakeQemu, qmp.Qmp]]]:
    made: list[tuple[FakeQemu, socket.socket]] = []

    def make(*answers: list[dict], within_s: float = 30) -> tuple[FakeQemu, qmp.Qmp]:
        ours, theirs = socket.socketpair()
        qemu = FakeQemu(theirs, [{"return": {}}], *answers)
        made.append((qemu, ours))
        return qemu, qmp.Qmp(ours, deadline=time.monotonic() + within_s)

    yield make
    for qemu, ours in made:
        ours.close()
        qemu.thread.join()


def test_a_command_and_its_answer(fake):
    qemu, monitor = fake([{"return": {"status": "paused"}}])
    assert monitor.command("query-status", why="because") == {"status": "paused"}
    assert qemu.asked == [
        {"execute": "qmp_capabilities", "arguments": {}},
        {"execute": "query-status", "arguments": {"why": "because"}},
    ]


def test_events_that_come_before_an_answer_are_kept_in_order(fake):
    events = [{"event": "STOP"}, {"event": "SHUTDOWN", "data": {"guest": True}}]
    _, monitor = fake([*events, {"return": {}}, {"event": "RESUME"}])
    monitor.command("stop")
    assert [monitor.event() for _ in range(3)] == [
        qmp.Event("STOP"), qmp.Event("SHUTDOWN", {"guest": True}), qmp.Event("RESUME")
    ]  # fmt: skip


def test_a_refusal_is_quoted(fake):
    _, monitor = fake([{"error": {"class": "GenericError", "desc": "no such thing"}}])
    with pytest.raises(qmp.Refused, match="migrate: no such thing"):
        monitor.command("migrate")


def test_a_descriptor_goes_with_a_command(fake):
    qemu, monitor = fake([{"return": {}}])
    read, write = os.pipe()
    monitor.command("getfd", fds=[write], fdname="state")
    os.write(qemu.descriptors[0], b"here")
    assert os.read(read, 10) == b"here"
    for fd in (read, write, *qemu.descriptors):
        os.close(fd)


def test_one_that_goes_away_is_gone(fake):
    _, monitor = fake()
    with pytest.raises(qmp.Gone):
        monitor.event()


def test_the_deadline_holds_whatever_is_waited_for(fake):
    _, monitor = fake([], [], within_s=0.2)
    with pytest.raises(qmp.Late):
        monitor.event()
    monitor.deadline = time.monotonic() + 0.2
    with pytest.raises(qmp.Late):
        monitor.command("query-status")
    monitor.deadline = time.monotonic() - 1
    with pytest.raises(qmp.Late):
        monitor.event()
    monitor.deadline = time.monotonic() + 30
    with pytest.raises(qmp.Gone):
        monitor.command("let it end")
