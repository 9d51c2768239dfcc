"""Checks of the login and of the broker's limits. Awaits the broker and the management API."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

from ...logs import counted
from ...transports.amqp.conversation import CONNECTION_NAME, Refused
from ..case import Case
from ..contacts import Login, log_in
from ..findings import Finding, FindingKind, NotChecked, Severity, not_checked, ok
from ..registry import check

__all__: list[str] = []

#: The oldest version that aiorpc is tested with.
OLDEST = (3, 10)
#: Bytes of a frame below which headers may not fit.
SMALL_FRAME = 16384
#: Seconds of a heartbeat that notices a lost connection late, and that sees losses where none are.
SLOW_HEARTBEAT, HASTY_HEARTBEAT = 60, 3
#: Connections that a finding names.
MOST_LISTED = 5
#: Seconds to send the largest message.
SENDING = 10.0
#: The largest message that is tried, in bytes.
MOST_SENT = 16 * 1024 * 1024

MECHANISM = FindingKind(
    "login-method-missing",
    Severity.ERROR,
    why="The broker does not offer the method, so it refuses every user.",
    remedy="Set LOGIN_METHOD to a method that the broker offers, or enable the method there.",
)
CREDENTIALS = FindingKind(
    "credentials-refused",
    Severity.ERROR,
    why="No client with this user and password connects.",
    remedy="Correct user and password in AMQP_URI, or set them: rabbitmqctl change_password. The "
    "user guest may only connect from the broker's own host.",
)
NO_VHOST = FindingKind(
    "vhost-missing",
    Severity.ERROR,
    why="Services and callers meet in a vhost, and this one does not exist.",
    remedy="Correct the vhost in AMQP_URI (/ is %2F), or make it: rabbitmqctl add_vhost.",
)
VHOST_REFUSED = FindingKind(
    "vhost-refused",
    Severity.ERROR,
    why="The user may not use the vhost at all.",
    remedy="Give the permissions: rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'",
)
VHOST_DOWN = FindingKind(
    "vhost-down",
    Severity.ERROR,
    why="The broker runs, but it cannot serve this vhost, perhaps because its files are damaged.",
    remedy="Read the broker's log, then: rabbitmqctl restart_vhost -p VHOST",
)
LIMIT = FindingKind(
    "connection-limit",
    Severity.ERROR,
    why="The broker refuses further connections, so a process that restarts does not come back.",
    remedy="Close connections that nobody needs, or raise the limit: rabbitmqctl set_vhost_limits "
    "or set_user_limits, or connection_max in rabbitmq.conf.",
)
LOGIN = FindingKind(
    "login-failed",
    Severity.ERROR,
    why="The broker ended the login, so no client connects.",
    remedy="Read the broker's log at this time.",
)
VERSION = FindingKind(
    "broker-unsupported",
    Severity.WARNING,
    why="aiorpc is not tested with this broker.",
    remedy="Use RabbitMQ 3.10 to 4.3.",
)
CHANNELS = FindingKind(
    "channel-limit",
    Severity.ERROR,
    why="All services of one process share a connection, and the broker closes it above the limit.",
    remedy="Raise channel_max in rabbitmq.conf (2047 by default), or host fewer services in one "
    "process.",
)
FRAMES = FindingKind(
    "frame-size",
    Severity.WARNING,
    why="All headers of a message must fit into one frame: context data, call ids, the stack of a "
    "parked message. A message whose headers do not fit is not sent.",
    remedy="Raise frame_max in rabbitmq.conf (131072 by default).",
)
NO_HEARTBEAT = FindingKind(
    "heartbeat-off",
    Severity.WARNING,
    why="A connection that a firewall or a dead host cut is noticed after minutes or never, and "
    "its calls wait as long.",
    remedy="Set HEARTBEAT: 10, and remove heartbeat=0 of the URL.",
)
LATE_HEARTBEAT = FindingKind(
    "heartbeat-slow",
    Severity.NOTE,
    why="A lost connection is noticed after two to three heartbeats.",
    remedy="Set HEARTBEAT: 10.",
)
OTHERS = FindingKind(
    "connections-without-heartbeat",
    Severity.WARNING,
    why="If such a process or its host disappears, the broker does not notice, and keeps the "
    "messages that it delivered there: they wait until the operating system gives up.",
    remedy="Set HEARTBEAT in the configuration of these processes; Nameko has it too.",
)
HASTY = FindingKind(
    "heartbeat-hasty",
    Severity.WARNING,
    why="A process that is busy for two heartbeats loses its connection, and the broker delivers "
    "its messages again.",
    remedy="Set HEARTBEAT: 10.",
)
SIZE = FindingKind(
    "message-too-large",
    Severity.ERROR,
    why="aiorpc sends messages up to MAX_MESSAGE_SIZE, and the broker closes the channel for this "
    "one: its call or event fails.",
    remedy="Lower MAX_MESSAGE_SIZE, or raise max_message_size in rabbitmq.conf.",
)
ALARM = FindingKind(
    "broker-alarm",
    Severity.ERROR,
    why="The broker accepts no messages while it lacks memory or disk: all calls and events wait.",
    remedy="Free disk space, or let consumers empty the queues; see disk_free_limit and "
    "vm_memory_high_watermark in rabbitmq.conf.",
)
NODE_DOWN = FindingKind(
    "node-down",
    Severity.ERROR,
    why="Classic queues of that node cannot be used, and quorum queues have less redundancy.",
    remedy="Start the node. If it is gone for good: rabbitmqctl forget_cluster_node.",
)
PARTITION = FindingKind(
    "cluster-partition",
    Severity.ERROR,
    why="Parts of the cluster do not see each other: callers and services may be in different "
    "parts.",
    remedy="Restart the nodes of the smaller part, and set cluster_partition_handling = "
    "pause_minority.",
)


@check
async def login(case: Case) -> AsyncGenerator[Finding]:
    for each in await case.logins():
        if each.step == "network":
            mend = "mend the errors above first"
            yield not_checked(each.url.redacted(), "no address speaks AMQP", mend)
        elif each.step == "mechanism":
            assert each.conversation is not None
            method = case.settings.login_method_for(each.url)
            offered = ", ".join(each.conversation.mechanisms)
            text = f"the broker offers {offered}, and not {method}"
            yield MECHANISM.found(each.url.redacted(), text)
        elif each.step:
            yield _refused(each)
        else:
            yield ok(each.url.redacted(), f"user {each.url.user}, vhost {each.url.vhost}")


def _refused(login: Login) -> Finding:
    subject, refused = login.url.redacted(), login.refused
    assert refused is not None
    text = refused.text
    if "limit" in text:
        return LIMIT.found(subject, text)
    if login.step == "credentials":
        # Brokers before 3.0, and proxies, close the connection instead of an answer.
        return (CREDENTIALS if refused.code == 403 else LOGIN).found(subject, text)
    if re.search("vhost .* not found", text):
        return NO_VHOST.found(subject, text)
    if "access to vhost" in text:
        return VHOST_REFUSED.found(subject, text)
    return (VHOST_DOWN if "down" in text else LOGIN).found(subject, text)


@check
async def version(case: Case) -> AsyncGenerator[Finding]:
    properties = (await case.broker()).properties
    product, text = str(properties.get("product")), str(properties.get("version"))
    numbers = tuple(int(each) for each in re.findall(r"\d+", text)[:2])
    if product != "RabbitMQ" or numbers < OLDEST:
        yield VERSION.found(f"{product} {text}", "aiorpc supports RabbitMQ 3.10 to 4.3")
    else:
        yield ok("broker", f"{product} {text}")


@check
async def channels(case: Case) -> AsyncGenerator[Finding]:
    most = (await case.broker()).channel_max
    needed = sum(each.channels for each in case.needs)
    if most and needed > most:
        text = f"one process with all services needs {needed} channels, and the broker permits"
        yield CHANNELS.found("channel_max", f"{text} {most} per connection")
    else:
        yield ok("channel_max", f"{most or 'no limit'}; {needed} needed")


@check
async def frames(case: Case) -> AsyncGenerator[Finding]:
    most = (await case.broker()).frame_max
    if 0 < most < SMALL_FRAME:
        yield FRAMES.found("frame_max", f"the broker permits frames of {most} bytes")
    else:
        yield ok("frame_max", f"{most or 'no limit'}")


@check
async def heartbeats(case: Case) -> AsyncGenerator[Finding]:
    for url in case.urls:
        seconds = case.settings.heartbeat_for(url)
        subject = "HEARTBEAT" if url.heartbeat is None else url.redacted()
        if not seconds:
            yield NO_HEARTBEAT.found(subject, "heartbeats are switched off")
        elif seconds > SLOW_HEARTBEAT:
            yield LATE_HEARTBEAT.found(subject, f"a heartbeat each {seconds} s")
        elif seconds < HASTY_HEARTBEAT:
            yield HASTY.found(subject, f"a heartbeat each {seconds} s")
        else:
            yield ok(subject, f"{seconds} s")


@check
async def connections(case: Case) -> AsyncGenerator[Finding]:
    without = []
    found = await case.api("vhosts", case.vhost, "connections") or ()
    for each in found:
        name = str(each.get("user_provided_name") or each.get("name"))
        if each.get("timeout") == 0 and name != CONNECTION_NAME:
            without.append(f"{name} from {each.get('peer_host')}")
    if without:
        listed = ", ".join(sorted(set(without))[:MOST_LISTED])
        text = f"{counted(len(without), 'connection')} without heartbeats: {listed}"
        yield OTHERS.found(case.vhost, text)
    else:
        yield ok(case.vhost, f"{counted(len(found), 'connection')}, all with heartbeats")


@check
async def message_size(case: Case) -> AsyncGenerator[Finding]:
    """Send the largest message to no queue, over a connection that the refusal may end."""
    await case.broker()
    login = next(each for each in await case.logins() if not each.step)
    contacts = await case.contacts(login.url)
    address = next(each.address for each in contacts if each.conversation is not None)
    size = min(case.settings.max_message_size or MOST_SENT, MOST_SENT)
    subject = "MAX_MESSAGE_SIZE"
    try:
        async with asyncio.timeout(SENDING):
            probe = await case.another_conversation(address)
            refused_login = await log_in(case.settings, login.url, probe)
            if refused_login.step:
                raise NotChecked(
                    "a second login failed", "look for a limit of connections", subject
                )
            await probe.offer(size)
    except Refused as refused:
        if refused.code == 403:
            raise NotChecked(refused.text, "permit write to amq.default", subject) from None
        yield SIZE.found(subject, f"the broker refuses {size} bytes: {refused.text}")
    except OSError as error:
        if not isinstance(error, TimeoutError):
            raise NotChecked(f"the connection was lost: {error}", subject=subject) from None
        text = f"{size} bytes could not be sent within {SENDING:g} s"
        raise NotChecked(
            text, "look for an alarm of the broker, or a slow network", subject
        ) from None
    else:
        yield ok(subject, f"the broker takes messages of {size} bytes")


@check
async def nodes(case: Case) -> AsyncGenerator[Finding]:
    for node in await case.api("nodes") or ():
        name, fine = str(node.get("name")), True
        if not node.get("running", True):
            fine = False
            yield NODE_DOWN.found(name, "the node does not run")
        for alarm, what in (("mem_alarm", "memory"), ("disk_free_alarm", "disk space")):
            if node.get(alarm):
                fine = False
                yield ALARM.found(name, f"the node lacks {what}")
        if node.get("partitions"):
            fine = False
            yield PARTITION.found(name, f"cannot see {', '.join(node['partitions'])}")
        if fine:
            yield ok(name, "runs, without an alarm")
