"""Real kernels under QEMU, in virtual time: what the model says is held against what they do.

`Lab("6.12").run(program)` boots an unmodified Debian kernel on an emulated machine with SVM, runs our own Python code
inside and returns the JSON lines it wrote. No root, no /dev/kvm, no network; packages come from `guestclock lab setup`.

Limits: stock QEMU emulates AMD's SVM only, without TSC scaling, and a write to the inner host's own TSC is ignored.
What needs VMX or scaling stays model-only.
"""

from guestclock.lab.boot import Lab
from guestclock.lab.tools import LabError

__all__ = ["Lab", "LabError"]
