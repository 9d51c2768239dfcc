"""
The Nameko services that tests call. Their names come from the environment, unique in each session.

Methods are named after what they do. They return JSON values; `describe` shows how arguments
arrived.
"""

import datetime
import decimal
import os
import uuid

import eventlet
from nameko.extensions import DependencyProvider
from nameko.rpc import rpc
from peer_errors import CustomError, KnownError, NoText
from stack import AnyService

SPECIAL = {
    "datetime": datetime.datetime(2020, 1, 2, 3, 4, 5),
    "aware": datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),  # noqa: UP017
    "date": datetime.date(2020, 1, 2),
    "time": datetime.time(1, 2, 3),
    "decimal": decimal.Decimal("1.10"),
    "uuid": uuid.UUID(int=5),
    "bytes": b"abc",
    "badbytes": b"\xff",
    "nan": float("nan"),
    "tuple": (1, 2),
    "intkey": {1: 2},
    "text": "h\xe9\u2603\U0001f600",
    "surrogate": "\ud800",
    "none": None,
    "big": 2**70,
}

ERRORS = {
    "value": lambda: ValueError("bad value"),
    "key": lambda: KeyError("missing"),
    "custom": lambda: CustomError("boom", 1, None, b"\x01"),
    "known": lambda: KnownError("known", 2),
    "no_text": lambda: NoText("x"),
    "no_args": lambda: ValueError(),
}


class CurrentWorker(DependencyProvider):
    """The worker's own context."""

    def get_dependency(self, worker_ctx):
        return worker_ctx


class ServiceY:
    name = os.environ["PEER_SERVICE_Y"]
    worker = CurrentWorker()

    @rpc
    def append_identifier(self, value):
        return f"{value}-y"

    @rpc
    def context(self):
        return dict(self.worker.context_data)

    @rpc
    def fail(self, kind):
        raise ERRORS[kind]()


class ServiceX:
    name = os.environ["PEER_SERVICE_X"]
    worker = CurrentWorker()
    cluster = AnyService()

    @rpc
    def remote_method(self, value):
        return self.cluster[ServiceY.name].append_identifier(f"{value}-x")

    @rpc
    def echo(self, *args, **kwargs):
        return [args, kwargs]

    @rpc
    def describe(self, *args):
        return [repr(arg) for arg in args]

    @rpc
    def special(self, kind):
        return SPECIAL[kind]

    @rpc
    def signature(self, a, b=1, *, c=2):
        return [a, b, c]

    @rpc
    def context(self):
        """Return context data, and the call id stack under Nameko's key."""
        return dict(self.worker.context_data)

    @rpc
    def parents(self):
        return [
            self.worker.call_id,
            self.worker.immediate_parent_call_id,
            self.worker.origin_call_id,
        ]

    @rpc
    def fail(self, kind):
        raise ERRORS[kind]()

    @rpc
    def unserializable(self):
        return {1, 2}

    @rpc
    def sleep(self, seconds):
        eventlet.sleep(seconds)
        return seconds

    @rpc
    def hop(self, service, method, args, kwargs):
        """Call another service, and return its result or raise its error."""
        return getattr(self.cluster[service], method)(*args, **kwargs)

    @rpc
    def hop_async(self, service, method, all_args):
        """Make several calls at the same time; return results in the order of the calls."""
        method = getattr(self.cluster[service], method)
        replies = [method.call_async(*args) for args in all_args]
        return [reply.result() for reply in reversed(replies)][::-1]

    @rpc
    def hop_meets(self, service, method, args):
        """Call another service, and describe the error that it raises here."""
        try:
            getattr(self.cluster[service], method)(*args)
        except Exception as error:
            return [type(error).__name__, str(error)]

    def undecorated(self):
        return "never called"
