"""What makes an x86 lab sleep in virtual time: a ROM that holds the machine up on its way out of S3 until the RTC's
alarm.

QEMU stops virtual time while a machine is in S3, and with it the RTC that would wake it (lab-x86.md section 6). So the
lab wakes it at once. SeaBIOS, if told to, calls the ROM at C000 as the first thing it does for a machine that comes out
of S3 (it would have a VGA card set up again); ours waits there, and a CPU that halts makes virtual time pass. To the
kernel that slept, the machine was down until the alarm, and its TSC ran on.

The wait ends at the tick of the RTC that the alarm is for. So it does not matter when, within the second before, the
machine went down; which is all that differs from run to run: QEMU lets the CPU run on for a while after it has asked
for S3.
"""

from __future__ import annotations

from guestclock.kvm.device.x86.assembler import Assembler

SIZE = 512


def words(path: str) -> list[str]:
    """QEMU's words for a ROM that SeaBIOS puts at C000 and calls on the way out of S3."""
    return ["-fw_cfg", f"name=vgaroms/sleep.bin,file={path}", "-fw_cfg", "name=etc/s3-resume-vga-init,string=\x01"]


def rom() -> bytes:
    """The ROM: signature, size in units of 512 bytes, code, and a sum of 0."""
    code = _assemble()
    whole = (b"\x55\xaa" + bytes([SIZE // 512]) + code).ljust(SIZE - 1, b"\0")
    assert len(whole) == SIZE - 1, f"{len(code)} bytes of code"
    return whole + bytes([-sum(whole) % 256])


def _assemble() -> bytes:
    """Real-mode code, entered at its first byte, by a far call."""
    a = Assembler()
    a.jump("eb", "begin")  # jmp begin
    a.label("slept")
    a.emit("00")  # 1 once the ROM has been called when the machine was switched on

    a.label("begin")
    a.emit("2e 80 3e 05 00 00")  # cmp byte cs:[slept], 0    the code begins at 3
    a.jump("75", "sleep")  # jne sleep
    a.emit("2e fe 06 05 00")  # inc byte cs:[slept]
    a.emit("2e fe 0e ff 01")  # dec byte cs:[SIZE - 1]       the sum stays 0, or it would not be called again
    a.emit("cb")  # retf

    a.label("sleep")
    a.emit("66 60")  # pushad
    a.emit("06")  # push es
    a.emit("31 c0")  # xor ax, ax
    a.emit("8e c0")  # mov es, ax
    a.emit("26 66 ff 36 c0 01")  # push dword es:[4 * 0x70]      the RTC's interrupt
    a.jump("e8", "here", 2)  # call here
    a.label("here")
    a.emit("58")  # pop ax
    a.emit("05")  # add ax, handler - here
    at = len(a.code)
    a.emit("00 00")
    a.emit("26 a3 c0 01")  # mov es:[4 * 0x70], ax
    a.emit("26 8c 0e c2 01")  # mov es:[4 * 0x70 + 2], cs

    a.emit("e4 21 50 24 fb e6 21")  # in al, 0x21; push ax; and al, ~4; out 0x21, al       the second PIC
    a.emit("e4 a1 50 24 fe e6 a1")  # in al, 0xa1; push ax; and al, ~1; out 0xa1, al       the RTC on it
    a.emit("b0 0b e6 70 e4 71 50")  # mov al, 0x0b; out 0x70, al; in al, 0x71; push ax     register B
    a.emit("88 c4 80 cc 20")  # mov ah, al; or ah, 0x20                                    alarm interrupts
    a.emit("b0 0b e6 70 88 e0 e6 71")  # mov al, 0x0b; out 0x70, al; mov al, ah; out 0x71, al
    a.emit("b0 0c e6 70 e4 71")  # mov al, 0x0c; out 0x70, al; in al, 0x71                 register C: nothing pends
    # The PIT ticks on behind its mask, and every tick costs QEMU time: a last one, and it is still.
    a.emit("b0 30 e6 43 b0 ff e6 40 e6 40")  # mov al, 0x30; out 0x43, al; mov al, 0xff; out 0x40, al; out 0x40, al
    a.emit("31 f6")  # xor si, si

    a.label("wait")
    a.emit("fb f4 fa")  # sti; hlt; cli
    a.emit("85 f6")  # test si, si
    a.jump("74", "wait")  # je wait

    a.emit("58 88 c4")  # pop ax; mov ah, al
    a.emit("b0 0b e6 70 88 e0 e6 71")  # mov al, 0x0b; out 0x70, al; mov al, ah; out 0x71, al
    a.emit("58 e6 a1")  # pop ax; out 0xa1, al
    a.emit("58 e6 21")  # pop ax; out 0x21, al
    a.emit("26 66 8f 06 c0 01")  # pop dword es:[4 * 0x70]
    a.emit("07")  # pop es
    a.emit("66 61")  # popad
    a.emit("cb")  # retf

    a.label("handler")
    a.emit("50")  # push ax
    a.emit("b0 0c e6 70 e4 71")  # mov al, 0x0c; out 0x70, al; in al, 0x71
    a.emit("a8 20")  # test al, 0x20    the alarm?
    a.jump("74", "other")  # je other
    a.emit("be 01 00")  # mov si, 1
    a.label("other")
    a.emit("b0 20 e6 a0 e6 20")  # mov al, 0x20; out 0xa0, al; out 0x20, al
    a.emit("58")  # pop ax
    a.emit("cf")  # iret
    a.code[at : at + 2] = (a.labels["handler"] - a.labels["here"]).to_bytes(2, "little")
    return a.finish()
