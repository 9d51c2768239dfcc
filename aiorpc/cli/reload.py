"""
``aiorpc run --reload``: a process that watches files, and one that it starts again and again.

Starting a new process is the one way to reload that is always right: whatever a module left behind
in the old one (threads, registries, connections) is gone. It drains as it would on any SIGTERM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..exceptions import ConfigurationError
from .output import print_note
from .settings import refuse_url

__all__ = ["run_reloading"]

#: Milliseconds in which changes are collected: an editor, or git, writes more than one file.
DEBOUNCE = 200
#: A terminal that goes, or that Ctrl-\\ is typed on, ends us; whom we started must not stay.
_OF_TERMINALS = [getattr(signal, name) for name in ("SIGHUP", "SIGQUIT") if hasattr(signal, name)]


def run_reloading(
    modules: Sequence[str],
    config: Path | None,
    define: Sequence[str] | None,
    broker: str | None,
    debug: bool = False,
) -> int:
    """
    Run ``aiorpc run`` in a child, anew whenever a Python file below the current directory, or the
    configuration, changes. A child that fails is not the end: the next change starts another.

    Returns:
        The exit status of the last child.

    Raises:
        ConfigurationError: watchfiles is not installed; the configuration's directory is not there.
    """
    refuse_url(config)
    stop = threading.Event()
    changes = _changes(config, stop)
    child = _Child(_command(modules, config, define, broker, debug))
    with _signals_end(stop, child):
        child.start()
        for paths in changes:
            print_note(f"reload: {', '.join(paths)} changed")
            child.stop()
            if not stop.is_set():
                child.start()
        return child.stop()


def _changes(config: Path | None, stop: threading.Event) -> Iterator[list[str]]:
    """The files that changed, each time some did, until *stop*."""
    try:
        from watchfiles import PythonFilter, watch
    except ImportError:
        raise ConfigurationError(
            "--reload needs watchfiles: pip install 'aiorpc-amqp[reload]'"
        ) from None
    python_files = PythonFilter()
    configuration = None if config is None else config.resolve()
    roots = [Path.cwd()]
    if configuration is not None and not configuration.is_relative_to(roots[0]):
        if not configuration.parent.is_dir():
            raise ConfigurationError(f"{config} cannot be read: there is no such directory")
        roots.append(configuration.parent)
    print_note(f"reload: watching {', '.join(map(str, roots))}")
    events = watch(
        *roots,
        watch_filter=lambda change, path: python_files(change, path) or Path(path) == configuration,
        debounce=DEBOUNCE,
        stop_event=stop,
        raise_interrupt=False,
    )
    return (sorted({os.path.relpath(path) for _, path in event}) for event in events)


def _command(
    modules: Sequence[str],
    config: Path | None,
    define: Sequence[str] | None,
    broker: str | None,
    debug: bool,
) -> list[str]:
    command = [sys.executable, "-m", "aiorpc", "run", *modules]
    if debug:
        command.append("--debug")
    if config is not None:
        command += ["--config", str(config)]
    for text in define or ():
        command += ["--define", text]
    if broker is not None:
        command += ["--broker", broker]
    return command


class _Child:
    """
    The process that runs the services, or the last one that did. It is in a group of its own:
    Ctrl-C goes to all processes of a terminal's group, and only this one knows what it means.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False
        self._heard = 0

    def start(self) -> None:
        self._told = False
        # Reading from a terminal would stop it, for it is in the background there.
        stdin = subprocess.DEVNULL if os.isatty(0) else None
        self._process = subprocess.Popen(self._command, stdin=stdin, process_group=0)

    def received(self, signum: int) -> None:
        """
        This process was told to end: pass it on. But for the first, where the child was told to
        stop anyway, for a reload: to the child it would be the second, which ends it at once.
        """
        self._heard += 1
        if not self._told or self._heard > 1:
            self._tell(signal.SIGTERM if signum in _OF_TERMINALS else signum)

    def _tell(self, signum: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._told = True
            self._process.send_signal(signum)

    def stop(self) -> int:
        """Let it finish its calls (SHUTDOWN_TIMEOUT bounds that), and return its exit status."""
        assert self._process is not None, "start it first"
        if not self._told:
            self._tell(signal.SIGTERM)
        status = self._process.wait()
        return 128 - status if status < 0 else status


@contextmanager
def _signals_end(stop: threading.Event, child: _Child) -> Iterator[None]:
    def on_signal(signum: int, frame: object) -> None:
        child.received(signum)
        stop.set()

    before = {
        signum: signal.signal(signum, on_signal)
        for signum in (signal.SIGTERM, signal.SIGINT, *_OF_TERMINALS)
        if signum not in _OF_TERMINALS or signal.getsignal(signum) is signal.SIG_DFL  # no nohup
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
