"""Machine code by hand: bytes, and jumps to labels."""

from __future__ import annotations


class Assembler:
    """Bytes with labels: `jump` and `call` leave a hole that `finish` fills."""

    def __init__(self) -> None:
        self.code = bytearray()
        self.labels: dict[str, int] = {}
        self._holes: list[tuple[int, int, str]] = []

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def emit(self, code: str) -> None:
        self.code += bytes.fromhex(code)

    def jump(self, opcode: str, target: str, width: int = 1) -> None:
        self.emit(opcode)
        self._holes.append((len(self.code), width, target))
        self.code += bytes(width)

    def finish(self) -> bytes:
        for at, width, target in self._holes:
            distance = self.labels[target] - (at + width)
            self.code[at : at + width] = distance.to_bytes(width, "little", signed=True)
        return bytes(self.code)
