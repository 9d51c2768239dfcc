"""
``aiorpc run --reload``: runs the services in a child process, and restarts it after changes.

Only a new process is free of old threads, registries and connections. ADR 12 says why
``watchfiles.run_process`` is not enough. Imports watchfiles, an extra.
"""

from __future__ import annotations

import argparse
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
from .parser import refuse_url

__all__ = ["run_reloading"]

#: Milliseconds to collect changes, because an editor or git writes several files.
DEBOUNCE = 200
#: Signals from a closing terminal or from Ctrl-\\. These signals must end the child too.
_OF_TERMINALS = [getattr(signal, name) for name in ("SIGHUP", "SIGQUIT") if hasattr(signal, name)]


def run_reloading(arguments: argparse.Namespace) -> int:
    """
    Run the same command without ``--reload`` in a child, and restart the child after changes.

    We watch Python files below the current directory, and the configuration. If the child fails,
    this process waits for the next change and starts a new child.

    Returns:
        The exit status of the last child.

    Raises:
        ConfigurationError: watchfiles, or the configuration's directory, is missing.
    """
    refuse_url(arguments.config)
    stop = threading.Event()
    changes = _changes(arguments.config, stop)
    words = [word for word in arguments.words if word != "--reload"]
    child = _Child([sys.executable, "-m", "aiorpc", *words], stop)
    with child.signals_stop_it():
        child.start()
        for paths in changes:
            print_note(f"reload: {', '.join(paths)} changed")
            child.stop()
            if not stop.is_set():
                child.start()
        return child.stop()


def _changes(config: str | None, stop: threading.Event) -> Iterator[list[str]]:
    """Yield the changed files after each change, until *stop* is set."""
    try:
        from watchfiles import PythonFilter, watch
    except ImportError:
        raise ConfigurationError(
            "--reload needs watchfiles: pip install 'aiorpc-amqp[reload]'"
        ) from None
    python_files = PythonFilter()
    configuration = None if config is None else Path(config).resolve()
    roots = [Path.cwd()]
    if configuration is not None and not configuration.is_relative_to(roots[0]):
        if not configuration.parent.is_dir():
            raise ConfigurationError(f"cannot read {config}: its directory does not exist")
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


class _Child:
    """
    The process that runs the services. After the process ended, its status is kept.

    The child has a separate process group. A terminal sends Ctrl-C to its foreground group, and we
    send the signal to the child too. A child in our group would get two, and end at once.
    """

    def __init__(self, command: Sequence[str], stop: threading.Event) -> None:
        self._command = command
        self._stop = stop
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False
        self._received = 0

    def start(self) -> None:
        self._is_stopping = False
        # The child is in the terminal's background, where a read from the terminal suspends it.
        stdin = subprocess.DEVNULL if os.isatty(0) else None
        self._process = subprocess.Popen(self._command, stdin=stdin, process_group=0)

    def stop(self) -> int:
        """Stop the child within SHUTDOWN_TIMEOUT, and return its exit status."""
        assert self._process is not None, "start it first"
        if not self._is_stopping:
            self._send(signal.SIGTERM)
        status = self._process.wait()
        return 128 - status if status < 0 else status

    @contextmanager
    def signals_stop_it(self) -> Iterator[None]:
        """Within the block, a signal goes to the child and sets the event *stop*."""
        before = {
            signum: signal.signal(signum, self._receive)
            for signum in (signal.SIGTERM, signal.SIGINT, *_OF_TERMINALS)
            if signum not in _OF_TERMINALS or signal.getsignal(signum) is signal.SIG_DFL  # no nohup
        }
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _receive(self, signum: int, frame: object) -> None:
        """Send *signum* to the child, but not the first signal during a reload."""
        self._received += 1
        if not self._is_stopping or self._received > 1:
            self._send(signal.SIGTERM if signum in _OF_TERMINALS else signum)
        self._stop.set()

    def _send(self, signum: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._is_stopping = True
            self._process.send_signal(signum)
