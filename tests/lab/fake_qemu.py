"""A program in QEMU's place that can be copied and forked: a "machine" whose boot and whose program are a few lines.

    python fake_qemu.py QEMU's arguments

Its boot writes its kernel's first line into memory and counts, in a file beside the kernel, how often it booted. Its
program answers with that line and with what it was asked. $FAKE_QEMU: "hang" or "die" at boot, "late" in a program.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
import time
from pathlib import Path

from guestclock.lab import exchange

WORDS = sys.argv[1:]
MOOD = os.environ.get("FAKE_QEMU", "")
AT, STATE = 0xFC00_0000, b"the state of a machine"


def value(option: str, part: str = "") -> str:
    """An option's value; part: the one that has this in it."""
    values = [WORDS[i + 1] for i, word in enumerate(WORDS) if word == option and part in WORDS[i + 1]]
    return values[0]


def mapped(name: str) -> mmap.mmap:
    words = value("-object", f"id={name},").split(",")
    facts = dict(word.partition("=")[::2] for word in words[1:])
    flags = mmap.MAP_SHARED if facts["share"] == "on" else mmap.MAP_PRIVATE
    with open(facts["mem-path"], "r+b") as file:
        return mmap.mmap(file.fileno(), int(facts["size"]), flags)


def main() -> None:
    if "--version" in WORDS:
        print("fake", "2.0" if "of another version" in WORDS else "1.0")
        return
    monitor = socket.socket(fileno=int(value("-chardev", "id=monitor").rpartition("=")[2]))

    def say(message: dict) -> None:
        monitor.sendall(json.dumps(message).encode() + b"\n")

    ram, shared = mapped("ram"), mapped("exchange")
    say({"QMP": {}})
    descriptors: list[int] = []
    booted = False
    while True:
        line, found, *_ = socket.recv_fds(monitor, 65536, 4)
        if not line:
            return
        descriptors += found
        asked = json.loads(line)
        command, arguments = asked["execute"], asked["arguments"]
        if command == "migrate":
            os.write(descriptors[-1], STATE)
        elif command == "migrate-incoming":
            assert os.read(descriptors[-1], 100) == STATE
        elif command == "pmemsave":
            at = arguments["val"] - AT
            Path(arguments["filename"]).write_bytes(shared[at : at + arguments["size"]])
        say({"return": {}})
        if command.startswith("migrate") and command != "migrate-set-capabilities":
            say({"event": "MIGRATION", "data": {"status": "completed"}})
        elif command == "cont":
            if MOOD == "late":
                time.sleep(60)
            _, length, _, _ = exchange.HEADER.unpack_from(shared)
            program = json.loads(shared[exchange.PROGRAM_AT : exchange.PROGRAM_AT + length])
            answer = json.dumps({"booted": ram[:10].decode().rstrip("\0"), "asked": program}).encode()
            shared[exchange.RESULTS_AT : exchange.RESULTS_AT + len(answer)] = answer
            shared[16:24] = len(answer).to_bytes(8, "little")
            ram[:10] = b"spoilt    "
            say({"event": "GUEST_PANICKED"})
        elif "-kernel" in WORDS and not booted:
            booted = True
            kernel = Path(value("-kernel"))
            with (kernel.parent / "boots").open("a") as file:
                file.write("x")
            with open(value("-chardev", "id=console").rpartition("=")[2], "w") as console:
                console.write("booting\n")
            if MOOD == "hang":
                time.sleep(60)
            if MOOD == "die":
                return
            ram[:10] = kernel.read_bytes()[:10].ljust(10, b"\0")
            ram[-(1 << 20) :] = bytes(range(256)) * 4096
            exchange.HEADER.pack_into(shared, 0, exchange.MAGIC, 0, exchange.NONE, AT)
            say({"event": "GUEST_PANICKED"})


if __name__ == "__main__":
    main()
