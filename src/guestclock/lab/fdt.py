"""Flattened device trees: read, changed, written again. Format: Devicetree Specification v0.4, chapter 5.

Only version 17, which everything since 2007 writes. Properties are bytes; who changes one knows what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct

MAGIC = 0xD00D_FEED
VERSION, COMPATIBLE_WITH = 17, 16
BEGIN_NODE, END_NODE, PROPERTY, NOP, END = 1, 2, 3, 4, 9

_HEADER = Struct(">10I")
_U32 = Struct(">I")
_PROPERTY = Struct(">II")
_RESERVATION = Struct(">QQ")


@dataclass(slots=True)
class Node:
    """A node with its properties and children, both in their order. The root's name is empty."""

    name: str
    properties: dict[str, bytes] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def child(self, name: str) -> Node:
        """The child of that name, with its unit address if it has one. Raises KeyError."""
        for child in self.children:
            if child.name == name:
                return child
        raise KeyError(name)

    def walk(self) -> Iterator[Node]:
        """This node and everything below it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(slots=True)
class Tree:
    """A device tree. reserved: (address, bytes) of memory to be left alone."""

    root: Node
    reserved: list[tuple[int, int]] = field(default_factory=list)
    boot_cpu: int = 0

    def free_phandle(self) -> int:
        """A number by which no node is referred to yet."""
        used = [number(n.properties["phandle"]) for n in self.root.walk() if "phandle" in n.properties]
        return max(used, default=0) + 1


def cells(*values: int) -> bytes:
    """A property's value: u32 each."""
    return b"".join(_U32.pack(value) for value in values)


def string(text: str) -> bytes:
    """A property's value: one string."""
    return text.encode() + b"\0"


def number(value: bytes) -> int:
    """What `cells` makes of one u32."""
    return int(_U32.unpack(value)[0])


def read(blob: bytes) -> Tree:
    """Raises ValueError, saying what, where the blob is no device tree of a version that is known."""
    if len(blob) < _HEADER.size:
        raise ValueError(f"{len(blob)} bytes are no device tree")
    magic, size, at_nodes, at_strings, at_reserved, _, compatible, boot_cpu, _, _ = _HEADER.unpack_from(blob)
    if magic != MAGIC or size > len(blob):
        raise ValueError(f"no device tree: magic {magic:#x}, {size} of {len(blob)} bytes")
    if compatible > VERSION:
        raise ValueError(f"a device tree that needs version {compatible}, {VERSION} is known")
    return Tree(_read_nodes(blob, at_nodes, at_strings), list(_read_reserved(blob, at_reserved)), boot_cpu)


def _read_reserved(blob: bytes, at: int) -> Iterator[tuple[int, int]]:
    while (entry := _RESERVATION.unpack_from(blob, at)) != (0, 0):
        yield entry
        at += _RESERVATION.size


def _read_nodes(blob: bytes, at: int, at_strings: int) -> Node:
    parents: list[Node] = []
    root: Node | None = None
    while True:
        token = _U32.unpack_from(blob, at)[0]
        at += 4
        if token == BEGIN_NODE:
            node = Node(_text(blob, at))
            at = _aligned(at + len(node.name) + 1)
            if parents:
                parents[-1].children.append(node)
            else:
                root = node
            parents.append(node)
        elif token == PROPERTY:
            length, name = _PROPERTY.unpack_from(blob, at)
            at += _PROPERTY.size
            parents[-1].properties[_text(blob, at_strings + name)] = blob[at : at + length]
            at = _aligned(at + length)
        elif token == END_NODE:
            parents.pop()
        elif token == END:
            if root is None or parents:
                raise ValueError("a device tree that ends within a node")
            return root
        elif token != NOP:
            raise ValueError(f"token {token} at {at - 4:#x} of a device tree")


def write(tree: Tree) -> bytes:
    """The blob: memory reservations, structure, strings."""
    strings: dict[str, int] = {}
    names = bytearray()
    for node in tree.root.walk():
        for name in node.properties:
            if name not in strings:
                strings[name] = len(names)
                names += name.encode() + b"\0"
    structure = bytearray()
    _write_node(tree.root, strings, structure)
    structure += _U32.pack(END)
    reserved = b"".join(_RESERVATION.pack(*entry) for entry in [*tree.reserved, (0, 0)])
    at_nodes = _HEADER.size + len(reserved)
    at_strings = at_nodes + len(structure)
    header = _HEADER.pack(
        MAGIC, at_strings + len(names), at_nodes, at_strings, _HEADER.size, VERSION, COMPATIBLE_WITH,
        tree.boot_cpu, len(names), len(structure),
    )  # fmt: skip
    return header + reserved + bytes(structure) + bytes(names)


def _write_node(node: Node, strings: dict[str, int], out: bytearray) -> None:
    out += _U32.pack(BEGIN_NODE) + node.name.encode() + b"\0"
    _pad(out)
    for name, value in node.properties.items():
        out += _U32.pack(PROPERTY) + _PROPERTY.pack(len(value), strings[name]) + value
        _pad(out)
    for child in node.children:
        _write_node(child, strings, out)
    out += _U32.pack(END_NODE)


def _text(blob: bytes, at: int) -> str:
    return blob[at : blob.index(b"\0", at)].decode()


def _aligned(at: int) -> int:
    return at + 3 & ~3


def _pad(out: bytearray) -> None:
    out += bytes(_aligned(len(out)) - len(out))
