"""What docs/deploy has for an operator agrees with the code: metrics, labels, options and paths."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiorpc.config import from_mapping, read_entry
from aiorpc.installed import middleware_of
from aiorpc.middleware import metric_names

from .commands import check_command
from .markdown import ROOT, table_rows

DEPLOY = ROOT / "docs" / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))

#: The names that Prometheus has, with their labels.
SERIES: dict[str, set[str]] = {}
for _metric in metric_names.DURATIONS.values():
    for _suffix in ("bucket", "sum", "count"):
        SERIES[f"{_metric.name}_{_suffix}"] = {*_metric.labels} | (
            {"le"} if _suffix == "bucket" else set()
        )
for _metric in [*metric_names.MESSAGES.values(), *metric_names.COUNTERS.values()]:
    SERIES[f"{_metric.name}_total"] = {*_metric.labels}
for _metric in metric_names.GAUGES.values():
    SERIES[_metric.name] = {*_metric.labels}
#: Prometheus adds these labels to each metric.
TARGET = {"job", "instance"}


def dashboard_queries() -> Iterator[tuple[str, str]]:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']} {target['refId']}", target["expr"]


def alert_queries() -> Iterator[tuple[str, str]]:
    alerts = yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))
    for group in alerts["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


QUERIES = [*dashboard_queries(), *alert_queries()]
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
GROUPING = re.compile(r"\bby \(([^)]*)\)")


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_query_has_only_metrics_and_labels_that_exist(name: str, query: str) -> None:
    found = SELECTOR.findall(query)
    assert found
    labels = set.union(
        *(SERIES.get(metric, TARGET if metric == "up" else set()) for metric, _ in found)
    )
    for metric, matchers in found:
        assert metric in SERIES or metric == "up"
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert used <= SERIES.get(metric, set()) | TARGET
    for grouping in GROUPING.findall(query):
        assert set(re.split(r",\s*", grouping)) <= labels | TARGET
    # No metric stands without braces, where this test would not see it.
    bare = SELECTOR.sub("", query)
    assert not re.findall(
        r"\b(?:aiorpc|rpc|messaging|http)_\w+(?=\[|\)|\s|$)(?!.*by)", re.sub(GROUPING, "", bare)
    )


def test_the_dashboard_shows_each_metric_of_ours() -> None:
    shown = " ".join(query for _, query in dashboard_queries())
    for metric in [
        *metric_names.DURATIONS.values(),
        *metric_names.MESSAGES.values(),
        *metric_names.GAUGES.values(),
    ]:
        assert metric.name in shown, metric.name


def test_the_variables_of_the_dashboard_read_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(
                r"label_values\((\w+)(?:\{[^}]*\})?, (\w+)\)", variable["query"]["query"]
            ).groups()
            assert label in SERIES[metric] | TARGET


def test_the_page_has_exactly_the_metrics_that_exist() -> None:
    tables = [
        ("histogram", "", metric_names.DURATIONS),
        ("counter", "_total", metric_names.MESSAGES),
        ("counter", "_total", metric_names.COUNTERS),
        ("gauge", "", metric_names.GAUGES),
    ]
    expected = [
        (
            f"`{metric.name}{suffix}`",
            kind,
            ", ".join(f"`{label}`" for label in metric.labels) or "-",
            metric.help,
        )
        for kind, suffix, metrics in tables
        for metric in metrics.values()
    ]
    rows = [
        tuple(row)
        for row in table_rows(ROOT / "docs" / "telemetry.md")
        if len(row) == 4 and row[1] in {"histogram", "counter", "gauge"}
    ]
    assert rows == expected


# The profile `telemetry` of compose.yaml


TELEMETRY = {
    name: service
    for name, service in COMPOSE["services"].items()
    if "telemetry" in service.get("profiles", [])
}


def test_the_profile_has_prometheus_grafana_and_a_collector() -> None:
    assert {"prometheus", "grafana", "otel-collector"} <= set(TELEMETRY)
    for service in TELEMETRY.values():
        assert re.search(r":v?\d+\.\d+", service["image"]), "an image has a version"
        for name in service.get("depends_on", []):
            assert name in TELEMETRY


def test_each_file_that_the_profile_mounts_exists() -> None:
    mounted = [
        volume.split(":")[0]
        for service in TELEMETRY.values()
        for volume in service.get("volumes", [])
    ]
    assert mounted
    for path in mounted:
        assert (ROOT / path).is_file(), path


def test_the_page_for_operators_says_what_to_do_at_each_alert() -> None:
    groups = yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`Aiorpc.+?) \|", page, re.MULTILINE)
    assert sorted(", ".join(rows).replace("`", "").split(", ")) == sorted(alerts)


def test_the_page_on_deployment_shows_the_unit_for_systemd() -> None:
    """Without ``KillMode=mixed``, each worker gets two signals, and ends at once."""
    unit = (DEPLOY / "aiorpc@.service").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert f"```ini\n{unit}```" in page
    assert "\nKillMode=mixed\n" in unit


def test_the_parts_of_the_profile_find_one_another() -> None:
    """Each URL in a file of docs/deploy names a service of compose.yaml."""
    texts = [
        (DEPLOY / name).read_text(encoding="utf-8")
        for name in ("grafana-datasources.yaml", "otel-collector.yaml", "prometheus.yaml")
    ]
    hosts = {
        host
        for text in texts
        for host in re.findall(r'(?:https?://|endpoint: |")([a-z][\w.-]*):\d+', text)
    }
    assert hosts - {"host.docker.internal"} == {"prometheus", "jaeger", "rabbitmq"}
    assert hosts - {"host.docker.internal"} <= set(COMPOSE["services"])


def test_grafana_has_the_dashboard_and_its_data_sources() -> None:
    sources = yaml.safe_load((DEPLOY / "grafana-datasources.yaml").read_text(encoding="utf-8"))
    assert {each["type"] for each in sources["datasources"]} == {"prometheus", "jaeger"}
    providers = yaml.safe_load((DEPLOY / "grafana-dashboards.yaml").read_text(encoding="utf-8"))
    folder = providers["providers"][0]["options"]["path"]
    assert [
        volume for volume in TELEMETRY["grafana"]["volumes"] if f"{folder}/aiorpc.json" in volume
    ]


# Kubernetes and systemd


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    text = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def test_the_manifests_have_probes_on_the_admin_port(manifests: dict[str, Any]) -> None:
    pod = manifests["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    check_command(container["command"], "kubernetes.yaml")
    port = int(container["command"][-1].rpartition(":")[2])
    assert container["ports"] == [{"name": "admin", "containerPort": port}]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    paths = {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "admin"}


def test_the_configuration_of_the_manifests_is_one(
    manifests: dict[str, Any], tmp_path: Path
) -> None:
    text = manifests["ConfigMap"]["data"]["config.yaml"]
    given = yaml.safe_load(text.replace("${AMQP_URI}", "memory://"))
    settings = from_mapping(given)
    for entry in settings.middleware:
        read_entry(entry, "MIDDLEWARE")
    assert len(middleware_of(settings)) == len(given["MIDDLEWARE"])
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > settings.shutdown_timeout


def test_the_selectors_of_the_manifests_fit_the_pods(manifests: dict[str, Any]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert manifests[kind]["spec"]["selector"]["matchLabels"] == labels


def test_the_unit_runs_a_command_that_exists() -> None:
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(DEPLOY / "aiorpc@.service")
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"].replace("%i", "shop"))
    assert program.endswith("/bin/aiorpc")
    check_command(["aiorpc", *words], "aiorpc@.service")
    assert "-HUP" in service["ExecReload"]
    assert service["Restart"] == "on-failure"
    assert int(service["TimeoutStopSec"]) > from_mapping({}).shutdown_timeout
