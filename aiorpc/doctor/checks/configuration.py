"""Checks of the configuration and of the services' classes. Awaits nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator

from ...config import BrokerUrl, ssl_context
from ...exceptions import ConfigurationError
from ...wire.protocol import Wire
from ..case import Case
from ..findings import Finding, FindingKind, Severity, ok
from ..registry import check

__all__ = ["MODULE", "WRONG"]

WRONG = FindingKind(
    "configuration-wrong",
    Severity.ERROR,
    why="aiorpc run and every client end at their start with this error.",
    remedy="Correct the key that the error names.",
)
MODULE = FindingKind(
    "module-wrong",
    Severity.ERROR,
    why="aiorpc run ends with this error, and the checks of this service are missing here.",
    remedy="Correct the module, or run the doctor where the services are installed.",
)
NO_EFFECT = FindingKind(
    "setting-without-effect",
    Severity.WARNING,
    why="Somebody wrote the key to change something, and it changes nothing.",
    remedy="Delete the key.",
)
PLAIN_TEXT = FindingKind(
    "connection-unencrypted",
    Severity.NOTE,
    why="Everybody on the way between the hosts can read the password and the messages.",
    remedy="Use amqps:// and port 5671, unless another layer encrypts the connection.",
)
UNVERIFIED = FindingKind(
    "certificate-unverified",
    Severity.WARNING,
    why="Without the check of the certificate, any host can pretend to be the broker.",
    remedy="Remove cert_reqs and check_hostname, and name the authority: AMQP_SSL: {ca_certs: ...}",
)
GUEST = FindingKind(
    "guest-from-elsewhere",
    Severity.WARNING,
    why="RabbitMQ accepts the user guest only from its own host, unless loopback_users permits it.",
    remedy="Make a user for the services: rabbitmqctl add_user, and set it in AMQP_URI.",
)
UNBOUNDED = FindingKind(
    "calls-unbounded",
    Severity.WARNING,
    why="A call whose service does not run waits for ever, and so does everything behind it.",
    remedy="Remove RPC_TIMEOUT: null, and set timeout=None for single calls that need it.",
)
PREFETCH = FindingKind(
    "prefetch-below-workers",
    Severity.NOTE,
    why="A process gets at most PREFETCH_COUNT messages, so some of its workers never work.",
    remedy="Remove PREFETCH_COUNT, or lower max_workers to it.",
)


@check
async def configuration(case: Case) -> AsyncGenerator[Finding]:
    settings = case.settings
    wrong = False
    try:
        Wire.of(settings)
    except ConfigurationError as error:
        wrong = True
        yield WRONG.found(settings.source, str(error))
    for note in settings.notes:
        wrong = True
        yield NO_EFFECT.found(settings.source, note.removeprefix(f"{settings.source}: "))
    if settings.rpc_timeout is None:
        wrong = True
        yield UNBOUNDED.found("RPC_TIMEOUT", "calls have no time limit by default")
    if settings.prefetch < settings.max_workers:
        wrong = True
        figures = f"PREFETCH_COUNT is {settings.prefetch}, and max_workers {settings.max_workers}"
        yield PREFETCH.found("PREFETCH_COUNT", figures)
    if not wrong:
        yield ok(settings.source, f"is read; it sets {', '.join(settings.raw) or 'nothing'}")


@check
async def encryption(case: Case) -> AsyncGenerator[Finding]:
    for url in case.urls:
        subject = url.redacted()
        try:
            context = ssl_context(case.settings, url)
        except ConfigurationError as error:
            yield WRONG.found(subject, str(error))
            continue
        remote = not _is_loopback(url)
        if context is None and remote:
            yield PLAIN_TEXT.found(subject, "the connection has no TLS")
        elif context is not None and not (context.verify_mode and context.check_hostname):
            yield UNVERIFIED.found(subject, "AMQP_SSL switches off a check of the certificate")
        else:
            yield ok(subject, "TLS" if context is not None else "without TLS, on this host")
        if remote and url.user == "guest":
            yield GUEST.found(subject, "the user is guest, and the broker is on another host")


def _is_loopback(url: BrokerUrl) -> bool:
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost" or url.host.endswith(".localhost")
