"""
What other processes spend, from Linux's /proc. Standard library only; touches nothing.

Where there is no /proc (macOS), or a process belongs to somebody else, the answer is ``None``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["cpu_seconds", "listener", "memory_peak_mb", "resident_mb", "with_children"]

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
LISTEN = "0A"  # the state of a socket in /proc/net/tcp


def cpu_seconds(pids: Iterable[int]) -> float | None:
    """User and system time of these processes, all threads; exact to 10 ms."""
    try:
        return sum(sum(map(int, _stat(pid)[11:13])) for pid in pids) / TICKS
    except OSError:
        return None


def resident_mb(pids: Iterable[int]) -> float | None:
    """Memory that these processes have now (VmRSS)."""
    return _status(pids, "VmRSS:")


def memory_peak_mb(pids: Iterable[int]) -> float | None:
    """The most memory that each of these processes ever had (VmHWM), summed."""
    return _status(pids, "VmHWM:")


def with_children(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for other in _pids():
        try:
            children.setdefault(int(_stat(other)[1]), []).append(other)
        except OSError:
            continue  # it has just ended
    found = [pid]
    for each in found:  # grows meanwhile
        found += children.get(each, [])
    return found


def listener(port: int) -> int | None:
    """Which process listens on a TCP port of this machine; for a foreign one one has to be root."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for pid in _pids() if sockets else ():
        try:
            descriptors = list((PROC / str(pid) / "fd").iterdir())
        except OSError:
            continue
        if any(_target(each) in sockets for each in descriptors):
            return pid
    return None


def _pids() -> list[int]:
    names = os.listdir(PROC) if PROC.exists() else []
    return [int(name) for name in names if name.isdigit()]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: state, ppid, ..., utime, stime, ..."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _status(pids: Iterable[int], field: str) -> float | None:
    try:
        lines = [
            line
            for pid in pids
            for line in (PROC / str(pid) / "status").read_text().splitlines()
            if line.startswith(field)
        ]
    except OSError:
        return None
    return sum(int(line.split()[1]) for line in lines) / 1024


def _listening(port: int) -> list[str]:
    """The inodes of the sockets that listen there."""
    sockets: list[list[str]] = []
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()
        except OSError:
            continue
        sockets += map(str.split, lines[1:])
    at_port = f":{port:04X}"
    return [each[9] for each in sockets if each[3] == LISTEN and each[1].endswith(at_port)]


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
