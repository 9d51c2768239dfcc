"""
Draws the plots of scaling.py's measurements. scaling.py runs it in an environment with matplotlib:

    plots.py scaling.csv DIRECTORY
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

Row = dict[str, str]

#: Series -> (file, label of the x axis, whether that is logarithmic).
FIGURES = {
    "in flight": ("in_flight", "calls in flight", True),
    "payload": ("payload", "length of the argument, bytes", True),
    "processes": ("processes", "server processes", False),
    "services": ("services", "services in one process", True),
}


def draw(series: str, rows: list[Row], into: Path) -> None:
    """Three panels: calls per second, CPU per call, latency; a line for each way."""
    name, label, logarithmic = FIGURES[series]
    figure, (rates, cpu, latency) = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for number, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
        own = [row for row in rows if row["way"] == way]
        style: dict[str, Any] = {"color": f"C{number}", "marker": "o", "markersize": 3}
        _line(rates, own, lambda row: _float(row["rate"]), label=way, **style)
        _line(cpu, own, _client_and_server, label=way, **style)
        broker = f"{way}, broker"
        _line(cpu, own, lambda row: _float(row["cpu_broker"]), label=broker, ls=":", **style)
        _line(latency, own, _milliseconds("p50_us"), label=f"{way}, p50", **style)
        _line(latency, own, _milliseconds("p99_us"), label=f"{way}, p99", ls=":", **style)
    for axes, title in ((rates, "calls/s"), (cpu, "CPU per call, ms"), (latency, "latency, ms")):
        axes.set(title=title, xlabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
        if logarithmic:
            axes.set_xscale("log")
            axes.set_yscale("log")
        else:
            axes.set_xticks(sorted({int(row["x"]) for row in rows}))
            axes.set_ylim(bottom=0)
    figure.savefig(into / f"{name}.png", dpi=110)
    pyplot.close(figure)


def _line(axes: Any, rows: Iterable[Row], y: Callable[[Row], float | None], **style: Any) -> None:
    points = [(int(row["x"]), value) for row in rows if (value := y(row))]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _client_and_server(row: Row) -> float | None:
    client, server = _float(row["cpu_client"]), _float(row["cpu_server"])
    return None if client is None else client + (server or 0)  # on memory:// they are one process


def _milliseconds(field: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        microseconds = _float(row[field])
        return None if microseconds is None else microseconds / 1000

    return value


def _float(text: str) -> float | None:
    return float(text) if text else None


def main(data: str, into: str) -> None:
    with open(data, newline="") as file:
        rows = list(csv.DictReader(file))
    for series in dict.fromkeys(row["series"] for row in rows):
        draw(series, [row for row in rows if row["series"] == series], Path(into))


if __name__ == "__main__":
    main(*sys.argv[1:])
