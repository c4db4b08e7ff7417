"""Debian packages as any user: found by name, fetched, unpacked; nothing is installed.

First the machine's own apt lists are asked. Where they lack a package, or are older than the mirror, a private apt (own
lists, own caches) is made in the lab's cache: from the machine's own sources, then with further suites on the same
mirror. So no mirror is named here: a machine without any configured Debian mirror is told so.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from guestclock.errors import UserError
from guestclock.lab.tools import require, workplace

Progress = Callable[[str], None]

FURTHER_SUITES = tuple(f"{name}{part}" for name in ("bookworm", "trixie") for part in ("", "-security", "-backports"))
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Apt:
    """One way to ask apt: the machine's own, or a private one under `root`."""

    def __init__(self, root: Path | None = None, sources: str | None = None, architecture: str = "amd64") -> None:
        """root: directory of a private apt; None is the machine's. sources: its sources.list; None is the machine's.

        architecture: whose packages a private apt knows.
        """
        self.options: list[str] = []
        if root is not None:
            for name in ("state/lists/partial", "cache/archives/partial", "parts"):
                (root / name).mkdir(parents=True, exist_ok=True)
            status = root / "state" / "status"
            status.touch()
            self._set("Dir::State", root / "state")
            self._set("Dir::State::status", status)
            self._set("Dir::Cache", root / "cache")
            self._set("APT::Architecture", architecture)
            self._set("APT::Architectures", architecture)
            if sources is not None:
                (root / "sources.list").write_text(sources)
                self._set("Dir::Etc::sourcelist", root / "sources.list")
                self._set("Dir::Etc::sourceparts", root / "parts")
        if os.geteuid() == 0:
            self._set("APT::Sandbox::User", "root")  # the cache of root is not readable for apt's own user

    def _set(self, name: str, value: object) -> None:
        self.options += ["-o", f"{name}={value}"]

    def run(self, tool: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return _run([require(tool), *self.options, *arguments], cwd)

    def update(self) -> None:
        self.run("apt-get", "-q", "update")  # a suite that is not on the mirror is no failure: the others count

    def names(self, pattern: str) -> list[str]:
        """Package names that match a regular expression as a whole."""
        # apt's own expressions are POSIX: the prefix narrows, Python decides
        found = self.run("apt-cache", "pkgnames", re.split(r"[\\\[(.*+?]", pattern, maxsplit=1)[0]).stdout.split()
        return [name for name in found if re.fullmatch(pattern, name)]

    def has(self, package: str) -> bool:
        return "\nPackage: " in "\n" + self.run("apt-cache", "show", "--no-all-versions", package).stdout

    def download(self, package: str, into: Path) -> str | None:
        """None on success, else apt's last word."""
        done = self.run("apt-get", "-q", "download", package, cwd=into)
        return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["apt-get failed"])[-1]

    def download_with_dependencies(self, packages: Sequence[str], into: Path) -> str | None:
        """All that these packages need, on a machine with nothing at all. None on success, else apt's last word."""
        nothing_installed = into / "status"
        nothing_installed.touch()
        (into / "partial").mkdir()
        options = [f"Dir::State::status={nothing_installed}", f"Dir::Cache::archives={into}", "Debug::NoLocking=true"]
        words = [word for option in options for word in ("-o", option)]
        arguments = ["-q", "-y", "--download-only", "--no-install-recommends", "install", *packages]
        done = self.run("apt-get", *words, *arguments)
        return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["apt-get failed"])[-1]

    def mirrors(self) -> dict[str, tuple[str, str]]:
        """Base URL and keyring of the archives configured here, by their label ("Debian", "Debian-Security")."""
        asked = "$(LABEL)|$(REPO_URI)|$(SIGNED_BY)"
        rows = self.run("apt-get", "indextargets", "--format", asked, "Created-By: Packages").stdout.splitlines()
        found: dict[str, tuple[str, str]] = {}
        for row in rows:
            label, url, key = row.split("|", 2)
            found.setdefault(label, (url, key if key.startswith("/") else KEYRING))
        return found


class Archive:
    """All the ways to an architecture's packages, cheapest first; each is made only when those before it did not do."""

    def __init__(self, cache: Path, progress: Progress, architecture: str = "amd64") -> None:
        self.cache = cache
        self.progress = progress
        self.architecture = architecture
        self.ways: list[Apt] = []
        if _machine_s_architecture() == architecture:
            self.ways.append(Apt())
        self.makers: list[Callable[[], Apt]] = [self._same_sources, self._further_suites]

    def newest(self, pattern: str) -> str:
        """The package with the highest version in its name, among those whose name matches `pattern`."""
        for apt in self._each():
            for name in sorted(apt.names(pattern), key=version_key, reverse=True):
                if apt.has(name):
                    return name
        raise UserError(f"lab: no package named like '{pattern}' in the apt sources of this machine or its mirror")

    def fetch(self, package: str, into: Path) -> Path:
        """Download one package; returns the .deb. An interrupted download leaves nothing under a final name."""
        into.mkdir(parents=True, exist_ok=True)
        trouble = "not known to apt"
        for apt in self._each():
            if not apt.has(package):
                continue
            with workplace(into) as partial:
                failed = apt.download(package, partial)
                if failed is None:
                    (deb,) = partial.glob("*.deb")
                    return deb.replace(into / deb.name)
            trouble = failed
        raise UserError(f"lab: package {package}: {trouble}")

    def fetch_with_dependencies(self, packages: Sequence[str], into: Path) -> list[Path]:
        """Download packages and all that they depend on, whatever is installed here; the .debs, in a new directory."""
        trouble = "not known to apt"
        for apt in self._each():
            if not all(apt.has(package) for package in packages):
                continue
            into.mkdir(parents=True)
            failed = apt.download_with_dependencies(packages, into)
            if failed is None:
                return sorted(into.glob("*.deb"))
            shutil.rmtree(into)
            trouble = failed
        raise UserError(f"lab: packages {' '.join(packages)}: {trouble}")

    def _each(self) -> Iterator[Apt]:
        for at in itertools.count():
            if at == len(self.ways):
                if not self.makers:
                    return
                self.ways.append(self.makers.pop(0)())
            yield self.ways[at]

    def _same_sources(self) -> Apt:
        self.progress("apt: reading the package lists of this machine's sources anew")
        apt = Apt(self._root("apt-same"), architecture=self.architecture)
        apt.update()
        return apt

    def _further_suites(self) -> Apt:
        mirrors = next((found for apt in self.ways if "Debian" in (found := apt.mirrors())), None)
        if mirrors is None:
            raise UserError("lab: no Debian mirror among the apt sources of this machine")
        lines = []
        for suite in FURTHER_SUITES:
            mirror = mirrors.get("Debian-Security" if suite.endswith("-security") else "Debian")
            if mirror is not None:
                lines.append(f"deb [signed-by={mirror[1]}] {mirror[0]} {suite} main\n")
        self.progress(f"apt: reading the package lists of {', '.join(FURTHER_SUITES)}")
        apt = Apt(self._root("apt-further"), "".join(lines), self.architecture)
        apt.update()
        return apt

    def _root(self, name: str) -> Path:
        return self.cache / (name if self.architecture == "amd64" else f"{name}-{self.architecture}")


def version_key(name: str) -> tuple[int, ...]:
    """Orders package names by the numbers in them: 6.1.0-56 after 6.1.0-9."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def unpack(deb: Path, into: Path) -> None:
    """Files of a package, without its scripts."""
    into.mkdir(parents=True, exist_ok=True)
    done = _run([require("dpkg-deb"), "-x", str(deb), str(into)])
    if done.returncode != 0:
        deb.unlink()  # the next setup fetches another
        raise UserError(f"lab: {deb.name}: damaged: {' '.join(done.stderr.split())}")


def _run(command: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a tool. Raises OSError where it found the disk full, which it may take for something else."""
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return done


def _machine_s_architecture() -> str:
    shown = subprocess.run([require("dpkg"), "--print-architecture"], capture_output=True, text=True, check=False)
    return shown.stdout.strip()
