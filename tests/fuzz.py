"""Coverage-guided fuzzing of everything that reads files: ``make fuzz SECONDS=300``, shared by the targets below.

Each target runs in a process of its own under atheris (libFuzzer), forked from one that has imported everything: that
takes longer than the share of a short run. An input fails it that

- raises anything but the errors that readers promise, in one line of bounded length;
- starts a process, opens a connection, unpickles a class, writes, or removes a file;
- takes more memory or time than any file of its size should.

The input is kept in ``build/fuzz``; ``python tests/fuzz.py --target NAME --reproduce FILE`` runs it again.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from killing import ended, in_child

Name = Literal[
    "pt", "pt-pickle", "checkpoint", "yaml", "card", "manifest", "npz", "clip-npz", "clip-pickle", "clip-csv", "engine"
]
TARGETS: tuple[Name, ...] = get_args(Name)

MEMORY_ALLOWED = 512 << 20
"""Bytes by which one input may raise the process's peak."""

LINE_ALLOWED = 2000
"""Characters of a message."""

INSTRUMENTED = ["CMG_Ref", "cmg_export", "cmg_runtime", "yaml"]
"""Packages whose branches guide the fuzzer; of torch and numpy, :func:`fuzz` names the functions that parse."""

FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "os.putenv", "os.mkdir", "os.remove", "os.rename",
    "os.rmdir", "os.symlink", "os.link", "os.chmod", "subprocess.Popen", "shutil.rmtree", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "webbrowser.open",
)  # fmt: skip
"""Audit events that no reader has a reason for."""

HARMLESS_CLASSES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}
"""What ``pickle`` may look up: it is then called with values from the file."""


@dataclass(frozen=True)
class Options:
    """Fuzz the readers of files, each for its share of the time, and print a table."""

    seconds: int = 300
    """In all, once everything is imported."""

    target: Name | None = None
    """Only this one."""

    reproduce: Path | None = None
    """Only this input of the target."""

    corpus: Path = Path("build/fuzz")
    """Where inputs are kept that reached something new, and those that failed."""


class Watch:
    """Notes what a reader does that it must not. Reports afterwards: readers turn exceptions into their own."""

    def __init__(self) -> None:
        self._active = False
        self._seen: list[str] = []
        sys.addaudithook(self._look)

    def _look(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._active:
            return
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        looked_up = event == "pickle.find_class" and (args[0], args[1]) not in HARMLESS_CLASSES
        if writes or looked_up or event in FORBIDDEN:
            self._seen.append(f"{event} {args}")

    def run(self, read: Callable[[], Any], refusals: tuple[type[Exception], ...]) -> None:
        """Call the reader, and raise ``AssertionError`` if it does anything but read or refuse in one line."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._active = True
        try:
            read()
        except refusals as error:
            message = str(error)
            assert type(error) in refusals, f"{type(error)}: {error}"
            assert "\n" not in message and len(message) < LINE_ALLOWED, f"message: {message[:5000]!r}"
        finally:
            self._active = False
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert not self._seen, self._seen
        assert taken < MEMORY_ALLOWED, f"it took {taken >> 20} MiB"


def instrument() -> None:
    """Import what is fuzzed, so that its branches are seen."""
    from torch._weights_only_unpickler import Unpickler

    # Only `make fuzz` installs the one, and numpy declares nothing of the other: types for them there are none.
    atheris: Any = importlib.import_module("atheris")
    npy: Any = importlib.import_module("numpy.lib._format_impl")

    Unpickler.load = atheris.instrument_func(Unpickler.load)
    npy._read_array_header = atheris.instrument_func(npy._read_array_header)
    # It would name every module on stderr.
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=INSTRUMENTED):
        importlib.import_module("fuzz_targets")


def fuzz(options: Options) -> None:
    """Run one target in this process; does not return, unless to reproduce."""
    assert options.target is not None
    atheris: Any = importlib.import_module("atheris")
    from fuzz_targets import make_target

    folder = options.corpus / options.target
    scratch, corpus = folder / "scratch", folder / "corpus"
    for path in (scratch, corpus):
        path.mkdir(parents=True, exist_ok=True)
    read, refusals, seeds = make_target(options.target, scratch)
    watch = Watch()
    for _ in range(2):  # what is imported and compiled on first use comes before the watch
        for seed in seeds:
            with contextlib.suppress(Exception):
                read(seed)
    if options.reproduce is not None:
        content = options.reproduce.read_bytes()
        watch.run(lambda: read(content), refusals)
        return
    for number, seed in enumerate(seeds):
        (corpus / f"seed_{number}").write_bytes(seed)
    longest = 2 * max(map(len, seeds))
    arguments = [f"-max_total_time={options.seconds}", f"-max_len={longest}", f"-artifact_prefix={folder}/"]
    arguments += ["-timeout=20", "-rss_limit_mb=6000", "-print_final_stats=1", "-verbosity=0", str(corpus)]
    atheris.Setup([sys.argv[0], *arguments], lambda content: watch.run(lambda: read(content), refusals))
    atheris.Fuzz()


def in_a_fork(work: Callable[[], None], log: Path) -> int:
    """The exit status of ``work`` in a process of its own, all of whose output goes to ``log``."""

    def logged() -> None:
        with log.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            raise

    return ended(in_child(logged))


def main(options: Options) -> int:
    """Fuzz all targets in turn; the exit status, 1 if an input failed one."""
    if options.target is None and options.seconds < len(TARGETS):
        expected = f"{len(TARGETS)} or more, one for a target"
        print(f"fuzz: --seconds is {options.seconds}; expected {expected}", file=sys.stderr)
        return 2
    instrument()
    if options.target is not None:
        fuzz(options)
        return 0
    share = options.seconds // len(TARGETS)
    failed = False
    print("| target | inputs | kept for new coverage | outcome |\n| --- | --- | --- | --- |", flush=True)
    for target in TARGETS:
        log = options.corpus / target / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        status = in_a_fork(lambda: fuzz(replace(options, target=target, seconds=share)), log)  # noqa: B023
        found = re.search(r"number_of_executed_units: (\d+)", log.read_text(errors="replace"))
        kept = len(list((options.corpus / target / "corpus").glob("*")))
        outcome = "nothing" if status == 0 else f"FAILED, see {log}"
        failed |= status != 0
        print(f"| {target} | {found[1] if found else '?'} | {kept} | {outcome} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
