"""Libraries that stand between the router and libc, one a C file beside this one, built when first asked for.

    out = Scarce(lab.directory); router = lab.router(up, env=out.env); out.refuse(3); ...; out.relent()
    time = Clockwork(lab.directory); router = lab.router(up, env=time.env); time.stop(); time.forward(30)
"""
import functools
import mmap
import os
import pathlib
import subprocess
import tempfile

FOREVER = 1 << 40
HERE = pathlib.Path(__file__).resolve().parent


@functools.lru_cache(maxsize=None)
def library(name):
    """Path of the shared library made from NAME.c; built once a test process."""
    directory = tempfile.TemporaryDirectory(prefix="router-preload-")
    KEPT.append(directory)
    path = os.path.join(directory.name, f"{name}.so")
    subprocess.run(["cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared",
                    str(HERE / f"{name}.c"), "-o", path, "-ldl"], check=True, timeout=60)
    return path


KEPT = []  # removed when the process ends


def preloaded(name, **more):
    """The environment of a router that runs with that library, sanitizer and memcheck included."""
    asan = os.environ.get("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99")
    return {"LD_PRELOAD": library(name), "ASAN_OPTIONS": f"{asan}:verify_asan_link_order=0",
            "VALGRIND_OPTS": "--soname-synonyms=somalloc=nouserintercepts", **more}


class Page:
    """Numbers shared with the library, by the names of FIELDS, in that order."""

    FIELDS, LIBRARY, VARIABLE = (), None, None

    def __init__(self, directory):
        handle, path = tempfile.mkstemp(prefix="page-", dir=directory)
        with os.fdopen(handle, "r+b") as file:
            file.truncate(mmap.PAGESIZE)
            self.numbers = memoryview(mmap.mmap(file.fileno(), mmap.PAGESIZE)).cast("q")
        self.env = preloaded(self.LIBRARY, **{self.VARIABLE: path})

    def __getitem__(self, name):
        return self.numbers[self.FIELDS.index(name)]

    def __setitem__(self, name, value):
        self.numbers[self.FIELDS.index(name)] = value


class Scarce(Page):
    """Memory that runs out: of the allocations of `least` to `most` bytes, counted from now, those from `first` to `last` fail."""

    FIELDS, LIBRARY, VARIABLE = ("armed", "least", "most", "first", "last", "seen", "refused", "size", "caller"), "scarce", "SCARCE"

    def refuse(self, first=1, last=None, least=0, most=FOREVER):
        self["armed"] = 0
        self["first"], self["last"] = first, first if last is None else last
        self["least"], self["most"] = least, most
        for name in ("seen", "refused", "size", "caller"):
            self[name] = 0
        self["armed"] = 1

    def relent(self):
        """There is memory again. How many allocations failed."""
        self["armed"] = 0
        return self["refused"]


class Clockwork(Page):
    """The router's time: it may be stopped and moved. Counts how often the router woke."""

    FIELDS, LIBRARY, VARIABLE = ("stopped", "shift", "waits", "wakes", "expired"), "clockwork", "CLOCKWORK"

    def stop(self):
        self["stopped"] = 1

    def forward(self, seconds):
        """Whole milliseconds, so that a clock that stands moves by exactly that."""
        self["shift"] += round(seconds * 1000) * 1000000


__all__ = ["Clockwork", "FOREVER", "Page", "Scarce", "library", "preloaded"]
