"""QEMU's monitor: one JSON object a line, over a socket that only the two of us have."""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CHUNK = 65536


class Gone(Exception):
    """QEMU has closed its end: it has exited, or will at once."""


class Refused(Exception):
    """A command that QEMU did not carry out; its own words."""


class Late(Exception):
    """Nothing came until the deadline."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: "SUSPEND", "SHUTDOWN", ... and what QEMU says of it."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)


class Qmp:
    """A monitor in control mode. deadline: time.monotonic() seconds; it holds for whatever is asked."""

    def __init__(self, channel: socket.socket, *, deadline: float) -> None:
        """Takes part in QEMU's greeting. Raises Gone, Late."""
        self._channel, self.deadline = channel, deadline
        self._bytes = b""
        self._events: deque[Event] = deque()
        self._next_message()
        self.command("qmp_capabilities")

    def command(self, name: str, *, fds: Sequence[int] = (), **arguments: Any) -> Any:
        """One command's answer. fds: descriptors that go with it. Raises Refused, Gone, Late."""
        line = json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"
        try:
            if fds:
                line = line[socket.send_fds(self._channel, [line], fds) :]
            if line:
                self._channel.sendall(line)
        except OSError:
            raise Gone from None
        while True:
            message = self._next_message()
            if "event" in message:
                self._events.append(_event(message))
            elif "error" in message:
                raise Refused(f"{name}: {message['error']['desc']}")
            else:
                return message["return"]

    def event(self) -> Event:
        """The next event, in order; waits for it. Raises Gone, Late."""
        while not self._events:
            message = self._next_message()
            if "event" in message:
                self._events.append(_event(message))
        return self._events.popleft()

    def _next_message(self) -> dict[str, Any]:
        while b"\n" not in self._bytes:
            left_s = self.deadline - time.monotonic()
            if left_s <= 0:
                raise Late
            self._channel.settimeout(left_s)
            try:
                got = self._channel.recv(CHUNK)
            except TimeoutError:
                raise Late from None
            except OSError:
                raise Gone from None
            if not got:
                raise Gone
            self._bytes += got
        line, _, self._bytes = self._bytes.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def _event(message: dict[str, Any]) -> Event:
    return Event(message["event"], message.get("data", {}))
