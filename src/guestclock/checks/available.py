"""Whether a kernel has all the calls that a recipe makes; and if not, which one has."""

from __future__ import annotations

from guestclock.checks.architectures import arch_of
from guestclock.checks.spec import Spec
from guestclock.checks.verdict import check
from guestclock.errors import UserError
from guestclock.kvm.api import KvmError
from guestclock.kvm.model.architectures import ARCHITECTURES


def unavailable(spec: Spec) -> str:
    """What this kernel refuses of the recipe, and since which kernel it does not; empty where it refuses nothing.

    Told by one order. Raises UserError for what is wrong with the recipe itself.
    """
    refused = _refused(spec)
    if not refused:
        return ""
    kernels = list(ARCHITECTURES[arch_of(spec.kernel)].kernels)
    older = kernels.index(spec.kernel) + 1 if spec.kernel in kernels else 0
    since = next((kernel for kernel in kernels[older:] if not _refused(spec.but(kernel=kernel))), "")
    return refused + (f"; it is there on {since}" if since else "; on no kernel that is known here")


def _refused(spec: Spec) -> str:
    one_order = iter((False,))
    try:
        check(spec, stories=False, stop=lambda: next(one_order, True))
    except UserError as error:
        if isinstance(error.__cause__, KvmError):
            return str(error.__cause__)
        raise
    return ""
