"""Every mistake a file can hold is one line: the file, the place, what was expected."""
# ruff: noqa: E501 (a message is one line, here too)

import pytest

from guestclock.errors import UserError
from guestclock.scenario import load, parse

HEAD = 'about = "x"\n'
VM = "[vm]\nvcpus = 2\n"
STEP = "[[step]]\n"


def refused(text: str) -> str:
    with pytest.raises(UserError) as raised:
        parse(text, "hotplug.toml")
    told = str(raised.value)
    assert "\n" not in told
    assert told.startswith("hotplug.toml: ")
    return told.removeprefix("hotplug.toml: ")


def steps(*tables: str, vm: str = VM, more: str = "") -> str:
    return HEAD + vm + more + "".join(STEP + t + "\n" for t in tables)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('about = "x', "line 1: not TOML: unterminated string at the end of the file"),
        (HEAD + "[vm]\nvcpus = \n", "line 3: not TOML: invalid value"),
        (HEAD + "[vm]\nvcpus = [2,\n", "line 3: not TOML: "),
        (HEAD + VM + '[[step]]\nvmm = """create-vcpu', "line 5: not TOML: "),
        (HEAD + VM + "[[step]", "line 4: not TOML: expected ']]' at the end of an array declaration"),
        ("", "key 'about' is missing"),
        (HEAD, "key 'vm' is missing"),
        (HEAD + VM, "key 'step' is missing"),
        (HEAD + VM + "[step]\n", "[[step]]: expected a list, got a table"),
        (HEAD + "steps = 3\n" + VM + STEP + "wait = '1 s'", "unknown key 'steps' (did you mean 'step'?)"),
        ("about = 5\n" + VM + STEP + "wait = '1 s'", "about: expected text, got an integer"),
        (HEAD + "kernels = 'linux-6.12'\n" + VM + STEP + "wait = '1 s'", "kernels: expected a list, got text"),
        (HEAD + "kernels = [6]\n" + VM + STEP + "wait = '1 s'", "kernels 1: expected text, got an integer"),
        (HEAD + "on = ['modle']\n" + VM + STEP + "wait = '1 s'", "on: expected 'model', 'kvm' or a lab like 'lab:6.12', got 'modle'"),
        ("step = ['x']\n" + HEAD + VM, "[[step]] 1: expected a table, got text"),
    ],
)  # fmt: skip
def test_the_file(text, message):
    assert refused(text).startswith(message)


@pytest.mark.parametrize(
    ("vm", "message"),
    [
        ("[vm]\nvcpu = 2\n", "[vm]: unknown key 'vcpu' (did you mean 'vcpus'?)"),
        ("[vm]\n", "[vm]: key 'vcpus' is missing"),
        ("[vm]\nvcpus = 1\non = ['kvm']\n", "[vm]: unknown key 'on': it belongs to the top of the file, before the first table"),
        ("[vm]\nvcpus = '2'\n", "[vm]: vcpus: expected an integer, got text"),
        ("[vm]\nvcpus = 0\n", "[vm]: vcpus: 0, expected 1 to 64"),
        ("[vm]\nvcpus = 65\n", "[vm]: vcpus: 65, expected 1 to 64"),
        ("[vm]\nvcpus = 1\nboot = 1\n", "[vm]: boot: expected true or false, got an integer"),
        ("[vm]\nvcpus = 1\nkvmclock = 'olde'\n", "[vm]: kvmclock: expected one of 'new', 'old', got 'olde' (did you mean 'old'?)"),
        ("[vm]\nvcpus = 1\nkvmclock = true\n", "[vm]: kvmclock: expected one of 'new', 'old', false, got true"),
        ("[vm]\nvcpus = 1\nexpect = { tsx = 'run' }\n", "[vm]: [expect]: unknown key 'tsx' (did you mean 'tsc'?)"),
        ("[vm]\nvcpus = 1\nexpect = { tsc = 'fly' }\n",
         "[vm]: [expect]: tsc: expected one of 'run', 'freeze', 'advance', got 'fly'"),
    ],
)  # fmt: skip
def test_the_vm(vm, message):
    assert refused(steps("wait = '1 s'", vm=vm)) == message


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("tsc_kHz = 1", "unknown key 'tsc_kHz' (did you mean 'tsc_khz'?)"),
        ("tsc_khz = 1", "tsc_khz: 1 kHz, expected 1000 to 4294967295 kHz (near zero can hang a host)"),
        ("tsc_khz = 0", "tsc_khz: 0, expected 1 to 4294967295 kHz"),
        ("tsc_khz = 2.5e6", "tsc_khz: expected an integer, got a number"),
        ("tsc_hz = 0", "tsc_hz: 0, expected a positive"),
        ("clocksource = 'hpett'", "clocksource: "),
        ("tsc_scaling = 'both'", "tsc_scaling: 'both', expected 'vmx', 'svm' or nothing"),
        ("hz = 7", "hz: 7, expected one of 100, 250, 300, 1000"),
        ("tsc_unstable = true", "clocksource: 'tsc', expected another one where tsc_unstable is set"),
    ],
)
def test_the_host(host, message):
    assert refused(steps("wait = '1 s'", more=f"[host]\n{host}\n")).startswith(f"[host]: {message}")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("vmm = 'creat-vcpu'", "unknown step 'creat-vcpu' (did you mean 'create-vcpu'?)"),
        ("vmm = 'read'", "unknown step 'read' for 'vmm': it is a step of the guest's, guest = 'read'"),
        ("vmm = 'dance'", "unknown step 'dance'"),
        ("vmm = 5", "unknown step 5"),
        ("value = '5 s'", "expected exactly one of wait, vmm, guest and host: the step has none of them"),
        ("wait = '1 s'\nvmm = 'run'", "expected exactly one of wait, vmm, guest and host: the step has 'wait' and 'vmm'"),
        ("wait = '1'", "wait: '1' has no unit, expected a duration like '300 ms'"),
        ("wait = 1", "wait: '1' has no unit, expected a duration like '300 ms'"),
        ("wait = '-1 s'", "wait: '-1 s' is negative, expected a duration like '300 ms'"),
        ("wait = '1 s'\nvcpu = 1", "unknown key 'vcpu'"),
        ("vmm = 'set-tsc'\nvalu = 5", "unknown key 'valu' (did you mean 'value'?)"),
        ("vmm = 'set-tsc'", "key 'value' is missing"),
        ("vmm = 'set-tsc'\nvalue = 5\nvcpu = 2", "vcpu: vCPU 2 does not exist here: vCPUs 0 to 1 exist"),
        ("vmm = 'set-tsc'\nvalue = 5\nvcpu = -1", "vcpu: vCPU -1 does not exist here: vCPUs 0 to 1 exist"),
        ("vmm = 'set-tsc'\nvalue = 5\nvcpu = [0, 0]", "vcpu: [0, 0] names a vCPU twice"),
        ("vmm = 'set-tsc'\nvalue = 5\nvcpu = 'most'", "vcpu: expected a vCPU like 1, a list like [0, 1] or 'all', got 'most'"),
        ("vmm = 'set-tsc'\nvalue = 5\nvcpu = []", "vcpu: expected a vCPU like 1, a list like [0, 1] or 'all', got []"),
        ("vmm = 'set-tsc'\nvalue = 5\nvcpu = true", "vcpu: expected a vCPU like 1, a list like [0, 1] or 'all', got True"),
        ("vmm = 'set-tsc'\nvalue = 5\ngap = '-1 ms'", "gap: '-1 ms' is negative, expected a duration like '300 ms'"),
        ("vmm = 'set-tsc'\nvalue = '$tsc'", "value: unknown variable '$tsc'"),
        ("vmm = 'set-clock'\nvalue = 5", "value: '5' has no unit, expected a duration like '5 s' or a saved clock like '$clock + 1 s'"),
        ("vmm = 'set-tsc-khz'\nkhz = 1", "khz: 1 kHz, expected 0 (the host's rate) or 1000 to 4294967295 kHz (near zero can hang a host)"),
        ("vmm = 'set-tsc-khz'\nkhz = -5", "khz: -5 kHz, expected 0 (the host's rate) or 1000 to 4294967295 kHz (near zero can hang a host)"),
        ("vmm = 'set-tsc-khz'\nkhz = '3 GHz'", "khz: expected an integer, got text"),
        ("vmm = 'set-tsc-khz'\nkhz = 0\nscope = 'pcpu'", "scope: expected one of 'vm', 'vcpu', got 'pcpu' (did you mean 'vcpu'?)"),
        ("vmm = 'create-vcpu'\ncount = 0", "count: 0, expected 1 to 64 vCPUs"),
        ("vmm = 'create-vcpu'\ncount = 63", "count: 65, expected 1 to 64 vCPUs"),
        ("vmm = 'create-vm'\nvcpus = 0", "vcpus: 0, expected 1 to 64 vCPUs"),
        ("vmm = 'move-to-cpu'\ncpu = -1", "cpu: -1, expected a physical CPU, counted from 0"),
        ("vmm = 'set-msr'\nindex = -1\nvalue = 0", "index: -1, expected an MSR's index, 0 to 0xffffffff"),
        ("vmm = 'kick'", "vcpu: no vCPU is in KVM_RUN: 'start' one first"),
        ("vmm = 'kick'\nvcpu = 1", "vcpu: vCPU 1 is not in KVM_RUN: 'start' it first"),
        ("vmm = 'get-tsc'\nas = 'a b'", "as: 'a b' is no name, expected letters, digits and '_'"),
        ("host = 'clocksource'\nto = 'sundial'", "to: expected one of 'tsc', 'hpet', 'acpi_pm', 'kvm-clock', 'hyperv', got 'sundial'"),
        ("host = 'adjust-frequency'\nppb = 500_001", "ppb: 500001, expected -500000 to 500000 (what adjtimex takes)"),
        ("host = 'sleep'\nvalue = '1 h'\ntsc = 'gone'", "tsc: expected one of 'running', 'stopped', 'reset', got 'gone'"),
        ("host = 'sleep'\nvalue = '-1 h'", "value: '-1 h' is negative, expected a duration like '300 ms'"),
        ("host = 'step-realtime'\nvalue = 2", "value: '2' has no unit, expected a duration like '2 s' or '-300 ms'"),
    ],
)  # fmt: skip
def test_a_step(step, message):
    told = refused(steps("wait = '1 s'", step))
    assert told.startswith(f"[[step]] 2: {message}")
    assert told == f"[[step]] 2: {message}" or step.startswith("vmm = 'dance'")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (["vmm = 'get-tsc'\nvcpu = 0\nas = 'tsc'", "vmm = 'set-tsc'\nvalue = '$tcs'"],
         "[[step]] 2: value: unknown variable '$tcs' (did you mean '$tsc'?)"),
        (["vmm = 'set-tsc'\nvalue = '$tsc'", "vmm = 'get-tsc'\nas = 'tsc'"],
         "[[step]] 1: value: '$tsc' is used before it is saved (by [[step]] 2)"),
        (["vmm = 'get-tsc'\nas = 'tsc'", "vmm = 'create-vcpu'", "vmm = 'set-tsc'\nvalue = '$tsc'"],
         "[[step]] 3: value: '$tsc' was saved for each of vCPU 0, 1: vCPU 2 has none"),
        (["vmm = 'get-tsc'\nas = 'tsc'", "vmm = 'set-tsc'\nvalue = '$tsc.2'"],
         "[[step]] 2: value: '$tsc' was not saved for vCPU 2, only for vCPU 0, 1"),
        (["vmm = 'get-tsc'\nas = 'tsc'", "vmm = 'start-all-tscs'\nvalue = '$tsc'"],
         "[[step]] 2: value: '$tsc' was saved for each of vCPU 0, 1: say which with '$name.0' or 'max($name)'"),
        (["vmm = 'get-clock'\nas = 'c'", "vmm = 'set-tsc'\nvalue = 'max($c)'"],
         "[[step]] 2: value: max($c): '$c' is one value, expected one saved for several vCPUs"),
        (["vmm = 'get-tsc'\nvcpu = 0\nas = 'tsc'", "vmm = 'set-clock'\nvalue = '$tsc'"],
         "[[step]] 2: value: '$tsc' is in cycles, expected a duration like '5 s' or a saved clock like '$clock + 1 s'"),
        (["vmm = 'get-clock'\nas = 'c'", "vmm = 'set-clock'\nvalue = '$c.host_tsc'"],
         "[[step]] 2: value: '$c.host_tsc' is in cycles, expected a duration like '5 s' or a saved clock like '$clock + 1 s'"),
        (["vmm = 'get-clock'\nas = 'c'", "vmm = 'set-clock'\nvalue = '$c.realtme'"],
         "[[step]] 2: value: unknown variable '$c.realtme' (did you mean '$c.realtime'?)"),
        (["vmm = 'create-vm'\nvcpus = 1", "guest = 'read'\nvcpu = 1"],
         "[[step]] 2: vcpu: vCPU 1 does not exist here: only vCPU 0 exists"),
        (["vmm = 'start'\nvcpu = 1", "vmm = 'set-tsc'\nvcpu = 1\nvalue = 0"],
         "[[step]] 2: vcpu: vCPU 1 is in KVM_RUN since [[step]] 1 and holds its mutex: 'kick' it first"),
        (["vmm = 'start'\nvcpu = 1", "guest = 'read'"],
         "[[step]] 2: vcpu: vCPU 1 is in KVM_RUN since [[step]] 1 and holds its mutex: 'kick' it first"),
        (["vmm = 'start'", "vmm = 'kick'\nvcpu = 0", "vmm = 'run'\nvcpu = 0", "vmm = 'run'\nvcpu = 1"],
         "[[step]] 4: vcpu: vCPU 1 is in KVM_RUN since [[step]] 1 and holds its mutex: 'kick' it first"),
    ],
)  # fmt: skip
def test_steps_after_each_other(tables, message):
    assert refused(steps(*tables)) == message


@pytest.mark.parametrize(
    ("vary", "step", "message"),
    [
        ("d = []", "wait = '$d'", "[vary]: d: the list is empty, expected at least one value"),
        ("d = ['1 s']", "wait = '1 s'", "[vary]: d: no step says '$d'"),
        ("'d d' = ['1 s']", "wait = '$d'", "[vary]: 'd d' is no name, expected letters, digits and '_'"),
        ("d = '1 s'", "wait = '$d'", "[vary]: d: expected a list of numbers, texts, true or false"),
        ("d = [{}]", "wait = '$d'", "[vary]: d: expected a list of numbers, texts, true or false"),
        ("d = ['1 s', '1']", "wait = '$d'", "[[step]] 1: wait: '1' has no unit, expected a duration like '300 ms' (with d = 1)"),
        ("d = ['-1 s', '1 s']", "wait = '$d'", "[[step]] 1: wait: '-1 s' is negative, expected a duration like '300 ms'"),
        ("d = ['1 s']", "wait = '$d + $e'", "[[step]] 1: wait: '$d + $e': '$e' is not in [vary]"),
        ("d = ['1 s']", "vmm = 'get-tsc'\nas = 'd'\ngap = '$d'", "[[step]] 1: as: 'd' is already a name of [vary]"),
        ("n = [0, 7]", "vmm = 'run'\nvcpu = '$n'", "[[step]] 1: vcpu: vCPU 7 does not exist here: vCPUs 0 to 1 exist (with n = 7)"),
        (f"a = {list(range(40))}\nb = {list(range(40))}", "vmm = 'set-tsc'\nvalue = '$a + $b'",
         "[vary]: 1600 variations, expected at most 1000"),
    ],
)  # fmt: skip
def test_variations(vary, step, message):
    assert refused(steps(step, more=f"[vary]\n{vary}\n")).startswith(message)


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        ("['linux-6.99']", "kernels: "),
        ("['linux-6.12', 'linux-6.12']", "kernels: 'linux-6.12' is named twice"),
    ],
)
def test_kernels(kernels, message):
    told = refused(f"{HEAD}kernels = {kernels}\n{VM}{STEP}wait = '1 s'")
    assert told.startswith(message)
    assert "linux-6." in told


ARM64 = "[host]\narch = 'arm64'\n"


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("arch = 'arm'", "[host]: arch: expected one of 'x86_64', 'arm64', got 'arm' (did you mean 'arm64'?)"),
        ("arch = '$a'", "[host]: arch: expected one of 'x86_64', 'arm64', got '$a'"),
        ("arch = 'arm64'\ntsc_khz = 3_000_000", "[host]: unknown key 'tsc_khz': there is one on x86_64, [host] arch = 'x86_64'"),
        ("counter_hz = 24_000_000", "[host]: unknown key 'counter_hz': there is one on arm64, [host] arch = 'arm64'"),
        ("arch = 'arm64'\ncounter_hz = '24 MHz'", "[host]: counter_hz: expected an integer, got text"),
        ("arch = 'arm64'\nvhe = 1", "[host]: vhe: expected true or false, got an integer"),
    ],
)  # fmt: skip
def test_the_architecture(host, message):
    assert refused(steps("wait = '1 s'", more=f"[host]\n{host}\n")) == message


@pytest.mark.parametrize(
    ("vm", "message"),
    [
        ("kvmclock = 'new'", "[vm]: unknown key 'kvmclock': there is one on x86_64, [host] arch = 'x86_64'"),
        ("expect = { tsc = 'run' }", "[vm]: [expect]: unknown key 'tsc': there is one on x86_64, [host] arch = 'x86_64'"),
        ("expect = { cntvtc = 'run' }", "[vm]: [expect]: unknown key 'cntvtc' (did you mean 'cntvct'?)"),
        ("expect = { cntpct = 'fly' }", "[vm]: [expect]: cntpct: expected one of 'run', 'freeze', 'advance', got 'fly'"),
    ],
)  # fmt: skip
def test_the_vm_on_arm64(vm, message):
    assert refused(steps("wait = '1 s'", vm=f"[vm]\nvcpus = 2\n{vm}\n", more=ARM64)) == message


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("vmm = 'set-tsc'\nvalue = 5", "'set-tsc' is a step on x86_64, and this scenario's [host] arch is 'arm64'"),
        ("host = 'mark-tsc-unstable'", "'mark-tsc-unstable' is a step on x86_64, and this scenario's [host] arch is 'arm64'"),
        ("vmm = 'set-conter'\nvalue = 5", "unknown step 'set-conter' (did you mean 'set-counter'?)"),
        ("vmm = 'hvc'\nx0 = 0", "unknown step 'hvc' for 'vmm': it is a step of the guest's, guest = 'hvc'"),
        ("vmm = 'set-counter'\ntimer = 'hyper'\nvalue = 5", "timer: expected one of 'virtual', 'physical', got 'hyper'"),
        ("vmm = 'get-reg'\nreg = 'TIMER_TVAL'", "reg: expected one of 'TIMER_CTL', 'TIMER_CNT', 'TIMER_CVAL', 'PTIMER_CTL', 'PTIMER_CVAL', 'PTIMER_CNT', got 'TIMER_TVAL' (did you mean 'TIMER_CVAL'?)"),
        ("vmm = 'set-counter-offset'\nvalue = 0\nreserved = -1", "reserved: -1, expected 0 to 2^64 - 1"),
        ("vmm = 'set-counter-offset'\nvalue = 0\nvcpu = 1", "unknown key 'vcpu'"),
        ("vmm = 'preempt'\nvalue = '1 ms'", "vcpu: no vCPU is in KVM_RUN: 'start' one first"),
        ("vmm = 'read-clock'\nclock = 'tsc'", "clock: expected one of 'counter', 'realtime', 'monotonic', 'monotonic_raw', 'boottime', got 'tsc'"),
        ("guest = 'hvc'\nx0 = -1", "x0: -1, expected 0 to 2^64 - 1"),
        ("guest = 'enter-l2'\nvalue = 5\nratio = 1", "unknown key 'ratio'"),
        ("guest = 'enter-l2'\nvalue = 5", "vcpu: vCPU 0 has no EL2, where a hypervisor runs: expected nested = true in [vm]"),
        ("guest = 'exit-l2'", "vcpu: vCPU 0 has no EL2, where a hypervisor runs: expected nested = true in [vm]"),
        ("host = 'sleep'\nvalue = '1 h'\ntsc = 'reset'", "unknown key 'tsc'"),
        ("host = 'sleep'\nvalue = '1 h'\nkind = 's5'", "kind: expected one of 's2idle', 's3', got 's5'"),
    ],
)  # fmt: skip
def test_a_step_on_arm64(step, message):
    assert refused(steps(step, more=ARM64)) == f"[[step]] 1: {message}"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("vmm = 'set-counter'\nvalue = 5", "'set-counter' is a step on arm64, and this scenario's [host] arch is 'x86_64'"),
        ("host = 'sleep'\nvalue = '1 h'\nkind = 's2idle'\ntsc = 'reset'",
         "tsc: 'reset', expected 'running' in s2idle, which takes no hardware down"),
    ],
)  # fmt: skip
def test_a_step_on_x86(step, message):
    assert refused(steps(step)) == f"[[step]] 1: {message}"


ENTER, EXIT = "guest = 'enter-l2'\nvalue = 5", "guest = 'exit-l2'"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([EXIT], "[[step]] 1: vcpu: vCPU 0 runs no L2: 'enter-l2' before it"),
        ([ENTER, EXIT, EXIT], "[[step]] 3: vcpu: vCPU 0 runs no L2: 'enter-l2' before it"),
        ([ENTER, ENTER], "[[step]] 2: vcpu: vCPU 0 runs an L2 since [[step]] 1, and there is no L3: 'exit-l2' first"),
        ([ENTER, "vmm = 'create-vm'", EXIT], "[[step]] 3: vcpu: vCPU 0 runs no L2: 'enter-l2' before it"),
        (["guest = 'enter-l3'\nvalue = 5"], "[[step]] 1: unknown step 'enter-l3' (did you mean 'enter-l2'?)"),
        ([f"{ENTER}\nvcpu = 7"], "[[step]] 1: vcpu: vCPU 7 does not exist here: vCPUs 0 to 1 exist"),
        (["guest = 'enter-l2'\nvalue = 18446744073709551616"],
         "[[step]] 1: value: 18446744073709551616, expected an offset of 64 bits"),
        ([f"{ENTER}\nratio = 7"], "[[step]] 1: ratio: 0x7: this host scales no TSC, expected tsc_scaling in [host]"),
    ],
)  # fmt: skip
def test_impossible_nesting(tables, message):
    assert refused(steps(*tables)) == message


@pytest.mark.parametrize(
    ("scaling", "ratio", "message"),
    [
        ("svm", 0, "0, expected 1 to 2^40 - 1: 2^32 is 1.0 on this host"),
        ("vmx", 0, "0, expected 1 to 2^64 - 1: 2^48 is 1.0 on this host"),
        ("vmx", -1, "-1, expected 1 to 2^64 - 1: 2^48 is 1.0 on this host"),
        ("svm", 1 << 40, "1099511627776, expected 1 to 2^40 - 1: 2^32 is 1.0 on this host"),
        ("vmx", 1 << 64, "18446744073709551616, expected 1 to 2^64 - 1: 2^48 is 1.0 on this host"),
    ],
)
def test_impossible_ratios(scaling, ratio, message):
    host = f"[host]\ntsc_scaling = '{scaling}'\n"
    assert refused(steps(f"{ENTER}\nratio = {ratio}", more=host)) == f"[[step]] 1: ratio: {message}"


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("value = '-5 s'", "value: '-5 s' is negative, expected a duration like '300 ms'"),
        ("value = '1_000_000_000_000 s'", "value: '1_000_000_000_000 s' is too long, expected at most 1000 d"),
        ("value = 'inf'", "value: 'inf': expected a duration like '300 ms'"),
        ("value = 5", "value: '5' has no unit, expected a duration like '300 ms'"),
        ("", "key 'value' is missing"),
    ],
)
def test_impossible_sleeps(arch, value, message):
    told = refused(steps(f"host = 'sleep'\n{value}", more=f"[host]\narch = '{arch}'\n"))
    assert told == f"[[step]] 1: {message}"


def test_values_on_arm64_are_ticks():
    tables = ("vmm = 'get-counter'\nas = 'c'", "vmm = 'set-counter-offset'\nvalue = '$c'")
    assert refused(steps(*tables, more=ARM64)) == (
        "[[step]] 2: value: '$c' was saved for each of vCPU 0, 1: say which with '$name.0' or 'max($name)'"
    )


def test_kernels_of_the_other_architecture():
    told = refused(f"{HEAD}kernels = ['linux-6.12']\n{VM}{ARM64}{STEP}wait = '1 s'")
    assert told == "kernels: 'linux-6.12' is of x86_64, this scenario's [host] arch is 'arm64'"
    told = refused(f"{HEAD}kernels = ['linux-6.12-arm64']\n{VM}{STEP}wait = '1 s'")
    assert told == "kernels: 'linux-6.12-arm64' is of arm64, this scenario's [host] arch is 'x86_64'"


def test_a_name_that_is_nothing():
    with pytest.raises(UserError, match=r"neither a file nor built in \(did you mean 'threads/2010-tsc-writes'\?\)"):
        load("threads/2010-tsc-write")


def test_a_file_that_is_not_there(tmp_path):
    missing = tmp_path / "missing.toml"
    with pytest.raises(UserError) as raised:
        load(str(missing))
    assert str(raised.value) == f"{missing}: cannot be read: No such file or directory"


def test_a_directory(tmp_path):
    with pytest.raises(UserError, match=r": cannot be read: Is a directory"):
        load(str(tmp_path))


def test_a_file_that_is_not_text(tmp_path):
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b'about = "\xff\xfe"')
    with pytest.raises(UserError, match=r"binary.toml: not UTF-8 text \(byte 9\)"):
        load(str(binary))
