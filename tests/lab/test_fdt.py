from __future__ import annotations

import shutil
import subprocess

import pytest

from guestclock.lab import fdt
from guestclock.lab.fdt import Node, Tree

TREE = Tree(
    Node(
        "",
        {"compatible": fdt.string("linux,dummy-virt"), "#address-cells": fdt.cells(2)},
        [
            Node("cpus", {"#size-cells": fdt.cells(0)}, [Node("cpu@0", {"phandle": fdt.cells(0x8001), "empty": b""})]),
            Node("odd", {"three": b"abc", "compatible": fdt.string("x")}),
        ],
    ),
    [(0x4000_0000, 0x1000)],
    boot_cpu=3,
)


def test_what_was_written_is_read_back():
    assert fdt.read(fdt.write(TREE)) == TREE
    assert fdt.write(fdt.read(fdt.write(TREE))) == fdt.write(TREE)


def test_a_name_that_two_nodes_have_is_stored_once():
    assert fdt.write(TREE).count(b"compatible\0") == 1


def test_nodes_are_found_by_name_and_phandles_are_new():
    assert TREE.root.child("cpus").child("cpu@0").properties["empty"] == b""
    with pytest.raises(KeyError):
        TREE.root.child("cpus").child("cpu")
    assert TREE.free_phandle() == 0x8002
    assert Tree(Node("")).free_phandle() == 1


def test_padding_and_nops_are_passed_over():
    blob = bytearray(fdt.write(Tree(Node("", {"a": b"\1"}))))
    assert fdt.read(bytes(blob) + bytes(1 << 16)) == Tree(Node("", {"a": b"\1"}))
    at = blob.index(fdt.PROPERTY.to_bytes(4, "big") + (1).to_bytes(4, "big"))
    for word in range(at, at + 16, 4):
        blob[word : word + 4] = fdt.NOP.to_bytes(4, "big")
    assert fdt.read(bytes(blob)) == Tree(Node(""))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda blob: blob[:8], "8 bytes are no device tree"),
        (lambda blob: b"\0" + blob[1:], "no device tree: magic 0xdfeed"),
        (lambda blob: blob[:-1], "of .* bytes"),
        (lambda blob: blob[:24] + (18).to_bytes(4, "big") + blob[28:], "needs version 18, 17 is known"),
        (lambda blob: blob.replace((9).to_bytes(4, "big"), (7).to_bytes(4, "big")), "token 7 at"),
        (lambda blob: blob.replace((2).to_bytes(4, "big") * 2, (9).to_bytes(4, "big") * 2), "ends within a node"),
    ],
)
def test_what_is_no_device_tree_is_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        fdt.read(spoil(fdt.write(TREE)))


@pytest.mark.skipif(shutil.which("dtc") is None, reason="no dtc here")
def test_dtc_reads_it_and_we_read_what_dtc_writes():
    text = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts"], input=fdt.write(TREE), capture_output=True, check=True
    ).stdout
    assert b'compatible = "linux,dummy-virt";' in text
    assert b"/memreserve/\t0x0000000040000000 0x0000000000001000;" in text
    again = subprocess.run(["dtc", "-O", "dtb", "-b", "3"], input=text, capture_output=True, check=True).stdout
    assert fdt.read(again) == TREE
