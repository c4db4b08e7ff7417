"""Which kernels have a recipe's calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestclock.checks.available import unavailable
from guestclock.checks.spec import Site, Spec
from guestclock.errors import UserError


def spec(recipe: str, kernel: str, prop: str = "tsc-agrees") -> Spec:
    return Spec(recipe=recipe, kernel=kernel, vcpus=1, properties=(prop,))


def test_a_kernel_that_has_them_all() -> None:
    assert unavailable(spec("offset-restore", "linux-5.16")) == ""


@pytest.mark.parametrize("kernel", ["linux-5.10", "linux-5.15", "linux-3.8"])
def test_the_first_kernel_that_has_them(kernel: str) -> None:
    told = unavailable(spec("offset-restore", kernel))
    assert told == "GetTscOffset: EINVAL (KVM_VCPU_TSC_OFFSET exists since 5.16); it is there on linux-5.16"


def test_a_call_that_never_came() -> None:
    assert unavailable(spec("stop-all-tscs", "linux-6.12")).endswith("; on no kernel that is known here")


def test_arm64_is_asked_of_arm64_s_kernels() -> None:
    asked = spec("arm64-by-offset", "linux-6.1-arm64", "cntvct-agrees").but(sites=(Site(khz=62_500),))
    assert unavailable(asked).endswith("; it is there on linux-6.4-arm64")


def test_what_is_wrong_with_the_recipe_itself_is_no_kernel_s(tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text("async def save(vm): return 1 // 0\nasync def restore(vm, snapshot): pass\n")
    with pytest.raises(UserError, match=r"mine\.py:1: save: ZeroDivisionError"):
        unavailable(spec(str(own), "linux-6.12"))
