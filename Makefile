# make run    the main job: a real VMM's snapshot restore, checked on two kernels over every order and every delay, with a
#             figure of the worst case; then a thread's question, answered by the model and by every real kernel this machine can
#             give; fetches Debian's kernels, and QEMU where there is none (apt, not root); without apt it goes on without
# make test   lint, types and the fast tests; needs a C compiler, but no root, no KVM, no QEMU (tests on /dev/kvm run where it
#             answers, and say so where not)
# make lab    the tests on real kernels under QEMU (first: guestclock lab setup, or make run)
# make smoke  of these, each kind of question once, on x86 and arm64: a few minutes
# make compare  the long comparison: random programs on each of Debian's kernels in the lab, x86 and arm64, against the model
# make mutants  deliberate changes of the model: each must make a test fail
# make bench  how fast
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CHECKED := qemu-migrate

.PHONY: install run test lint lab smoke compare mutants bench clean
install: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11; say make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $(READY)

run: install
	-@$(BIN)/guestclock lab setup --kernel 6.1 --kernel 6.12
	$(BIN)/guestclock check $(CHECKED) --kernel linux-6.1 --kernel linux-6.12 --out out; test $$? -eq 1
	$(BIN)/guestclock replay out/$(CHECKED).linux-6.12.tsc-agrees.worst.json --figure out/$(CHECKED).png
	$(BIN)/guestclock run threads/2023-masterclock --on all --figure out/2023-masterclock.png

lint: install
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

test: install lint
	@command -v cc >/dev/null || { echo "make test: no C compiler (cc): the arithmetic's oracle is compiled by the tests; Debian package gcc with libc6-dev"; exit 1; }
	$(BIN)/pytest -m 'not lab'

lab: install
	$(BIN)/pytest -m lab

smoke: install
	$(BIN)/pytest -m smoke

compare: install
	$(BIN)/guestclock lab compare 6.1 --count 300 --record out/compare-x86-6.1.gz
	$(BIN)/guestclock lab compare 6.12 --count 300 --record out/compare-x86-6.12.gz
	$(BIN)/guestclock lab compare 6.1 --arch arm64 --count 200 --record out/compare-arm64-6.1.gz
	$(BIN)/guestclock lab compare 6.12 --arch arm64 --count 200 --record out/compare-arm64-6.12.gz

mutants: install
	$(BIN)/python -m tests.mutants

bench: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis
