"""Checks of names, addresses and TLS. Awaits the resolver and sockets through the case."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, Sequence

from ...config import BrokerUrl
from ...exceptions import ConfigurationError
from ...logs import counted
from ...transports.amqp.conversation import NotAmqp
from ...transports.amqp.errors import reason
from ..case import Case
from ..contacts import Contact
from ..findings import Finding, FindingKind, NotChecked, Severity, ok
from ..registry import check

__all__: list[str] = []

#: Seconds of a slow answer of the resolver.
SLOW = 1.0
#: Days before its end in which a certificate should be renewed.
RENEW = 21
_DAY = 86400

UNKNOWN = FindingKind(
    "name-unknown",
    Severity.ERROR,
    why="Without an address, no connection is possible.",
    remedy="Correct the host in AMQP_URI, or the resolver of this host (/etc/resolv.conf).",
)
SLOW_NAME = FindingKind(
    "name-slow",
    Severity.WARNING,
    why="Each connection waits for the resolver, also each one after a failure of the broker.",
    remedy="Look at the resolver of this host: a dead name server in /etc/resolv.conf costs 5 s.",
)
UNREACHABLE = FindingKind(
    "address-unreachable",
    Severity.ERROR,
    why="Nothing connects there. If other addresses answer, a connection takes longer, and after "
    "a failure fewer nodes are left.",
    remedy="Start the broker there, correct host and port, or open the firewall. If the node is "
    "gone for good, remove its address from the name.",
)
NOT_AMQP = FindingKind(
    "not-amqp",
    Severity.ERROR,
    why="Another program listens at the port, so no client can connect.",
    remedy="Correct the port: RabbitMQ has 5672, with TLS 5671; 15672 is the management API.",
)
TLS_EXPECTED = FindingKind(
    "tls-expected",
    Severity.ERROR,
    why="The port expects TLS, and the connection has none.",
    remedy="Write amqps:// instead of amqp://, or use the port without TLS.",
)
NO_TLS = FindingKind(
    "tls-not-spoken",
    Severity.ERROR,
    why="The configuration demands TLS, and the port has none.",
    remedy="Use the broker's port with TLS (5671), or amqp:// without TLS.",
)
NAME = FindingKind(
    "tls-name",
    Severity.ERROR,
    why="The certificate belongs to another name, so aiorpc refuses the connection.",
    remedy="Use a name of the certificate in AMQP_URI, or set AMQP_SSL: {server_hostname: NAME}.",
)
CHAIN = FindingKind(
    "tls-chain",
    Severity.ERROR,
    why="No authority that this host knows signed the certificate, so aiorpc refuses it.",
    remedy="Name the authority of the certificate: AMQP_SSL: {ca_certs: /path/ca.pem}. If it is "
    "named, let the broker send the intermediate certificates too.",
)
EXPIRED = FindingKind(
    "tls-expired",
    Severity.ERROR,
    why="aiorpc refuses a certificate that is not valid now.",
    remedy="Renew the broker's certificate; check the clock of this host too.",
)
EXPIRES = FindingKind(
    "tls-expires-soon",
    Severity.WARNING,
    why="After that day, no service connects any more.",
    remedy="Renew the broker's certificate.",
)
CLIENT = FindingKind(
    "tls-client-certificate",
    Severity.ERROR,
    why="The broker demands a certificate of its clients (fail_if_no_peer_cert).",
    remedy="Set AMQP_SSL: {certfile: ..., keyfile: ...}, signed by an authority of the broker.",
)
HANDSHAKE = FindingKind(
    "tls-handshake",
    Severity.ERROR,
    why="Client and broker cannot agree on TLS.",
    remedy="Compare versions and ciphers of both sides: AMQP_SSL, and ssl_options of the broker.",
)
DIFFERENT = FindingKind(
    "nodes-of-different-clusters",
    Severity.ERROR,
    why="Callers and services that reach different clusters never meet.",
    remedy="Let the name, or the URLs of AMQP_URI, name the nodes of one cluster only.",
)


@check
async def names(case: Case) -> AsyncGenerator[Finding]:
    for url in case.urls:
        try:
            addresses, seconds = await case.addresses(url)
        except OSError as error:
            yield UNKNOWN.found(url.host, f"the host name has no address: {reason(error)}")
            continue
        listed = ", ".join(each.ip for each in addresses)
        if seconds > SLOW:
            yield SLOW_NAME.found(url.host, f"the resolver took {seconds:.1f} s for {listed}")
        else:
            yield ok(url.host, f"has {counted(len(addresses), 'address')}: {listed}")


@check
async def addresses(case: Case) -> AsyncGenerator[Finding]:
    clusters: dict[str, str] = {}
    for url in case.urls:
        contacts = await _contacts(case, url)
        answering = any(each.conversation is not None for each in contacts)
        for contact in contacts:
            yield _of_contact(contact, answering)
            if contact.conversation is not None:
                name = str(contact.conversation.properties.get("cluster_name", ""))
                clusters.setdefault(name, str(contact.address))
    if len(clusters) > 1:
        listed = ", ".join(f"{where} is {name!r}" for name, where in clusters.items())
        yield DIFFERENT.found("AMQP_URI", f"the addresses belong to different clusters: {listed}")


@check
async def tls(case: Case) -> AsyncGenerator[Finding]:
    if not any(url.scheme == "amqps" for url in case.urls):
        return
    for url in case.urls:
        for contact in await _contacts(case, url):
            if contact.conversation is None:
                if isinstance(contact.trouble, ssl.SSLError) and not contact.otherwise:
                    yield _of_tls_error(contact, contact.trouble)
                continue
            ends = contact.conversation.certificate.get("notAfter")
            if ends is None:
                continue  # not verified, see the check of encryption
            days = (ssl.cert_time_to_seconds(ends) - time.time()) / _DAY
            text = f"the certificate expires in {counted(int(days), 'day')}, on {ends}"
            subject = str(contact.address)
            yield EXPIRES.found(subject, text) if days < RENEW else ok(subject, text)


async def _contacts(case: Case, url: BrokerUrl) -> Sequence[Contact]:
    try:
        return await case.contacts(url)
    except OSError:
        raise NotChecked("the host name has no address", subject=url.host) from None
    except ConfigurationError as error:
        raise NotChecked(str(error), subject=url.redacted()) from None


def _of_contact(contact: Contact, others_answer: bool) -> Finding:
    subject, trouble = str(contact.address), contact.trouble
    if contact.conversation is not None:
        properties = contact.conversation.properties
        product = f"{properties.get('product')} {properties.get('version')}"
        return ok(subject, f"{product} answers; cluster {properties.get('cluster_name')}")
    if contact.otherwise:
        if contact.address.url.scheme == "amqps":
            return NO_TLS.found(subject, "the port speaks AMQP without TLS")
        return TLS_EXPECTED.found(subject, "the port speaks AMQP with TLS")
    if isinstance(trouble, NotAmqp):
        return _of_other_words(subject, trouble)
    if isinstance(trouble, ssl.SSLError):
        return ok(subject, "the port is open; see the check of TLS")
    severity = Severity.WARNING if others_answer else Severity.ERROR
    return UNREACHABLE.found(subject, reason(trouble), severity=severity)


def _of_other_words(subject: str, trouble: NotAmqp) -> Finding:
    if trouble.heard[:1] in {b"\x15", b"\x16"}:
        return TLS_EXPECTED.found(subject, "the port answers with TLS")
    if not trouble.heard:
        return NOT_AMQP.found(
            subject,
            "the port is open, but closes the connection without a word",
            remedy=f"{NOT_AMQP.remedy} A proxy does so if the broker behind it is down, and so may "
            "a broker that demands a certificate of its clients.",
        )
    if trouble.heard.startswith(b"AMQP"):
        what = f"the peer speaks another version of AMQP: {trouble.heard[4:8].hex(' ')}"
        return NOT_AMQP.found(subject, what)
    return NOT_AMQP.found(subject, f"the port answers {trouble.heard[:30]!r}")


#: OpenSSL's codes of the verification (x509_vfy.h).
_EXPIRED_CODES = {9, 10}
_NAME_CODES = {62, 64}


def _of_tls_error(contact: Contact, error: ssl.SSLError) -> Finding:
    subject = str(contact.address)
    if isinstance(error, ssl.SSLCertVerificationError):
        code, text = error.verify_code, error.verify_message
        if code in _EXPIRED_CODES:
            return EXPIRED.found(subject, text)
        return (NAME if code in _NAME_CODES else CHAIN).found(subject, text)
    reason = error.reason or str(error)
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE"}:
        return NO_TLS.found(subject, "the port does not answer with TLS")
    if "CERTIFICATE_REQUIRED" in reason or "BAD_CERTIFICATE" in reason:
        return CLIENT.found(subject, reason.lower().replace("_", " "))
    return HANDSHAKE.found(subject, reason.lower().replace("_", " "))
