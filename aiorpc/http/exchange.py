"""
One request: its call runs in a worker of the service, and its response goes to the client. Awaits
the client and the worker.

The worker makes the response while the dependencies are open. A plain response leaves after they
closed, so it means "committed". The parts of a stream leave while they are open, and the end of the
stream after they closed. A client that hangs up cancels the call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from time import monotonic
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from ..call import Call, Ending, Outcome
from ..config import hide
from ..context import Context, current
from ..exceptions import BadRequest
from ..extensions import Entrypoint, Host, Submission
from ..logs import logger
from ..timers import Timers
from ..wire.errors import text_of
from .problems import problem_response
from .requests import HttpCall, HttpRequest, context_from, known_headers, read_body, trace_of
from .responses import checked
from .routes import Rule

__all__ = ["Hooks", "HttpEndpoint", "StreamCut"]

log = logger("aiorpc.http")

#: Seconds after which a request is watched for a client that hangs up. Most end earlier, and then
#: cost no task for that.
_PATIENCE = 0.02


class StreamCut(Exception):
    """Ends the connection of a stream that failed, so that the client does not take it as whole."""


class _HeadersSent(Exception):
    """Ends a stream for HEAD."""


class Hooks(Entrypoint):
    """What a request asks of its entrypoint. :class:`HttpEntrypoint` has the documentation."""

    timeout: float | None

    def context_data_from_headers(self, request: HttpRequest) -> Mapping[str, Any]:
        raise NotImplementedError

    def get_entrypoint_parameters(
        self, request: HttpRequest
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        raise NotImplementedError

    def response_from_result(self, result: Any) -> Response:
        raise NotImplementedError

    def response_from_exception(self, exc: Exception) -> Response:
        raise NotImplementedError


class HttpEndpoint:
    """
    Serves the requests of one entrypoint.

    Args:
        hooks: the entrypoint, of *host*.
        rule, methods: the requests to serve.
    """

    def __init__(self, hooks: Hooks, host: Host, rule: Rule, methods: tuple[str, ...]) -> None:
        self.hooks = hooks
        self.host = host
        self.rule = rule
        self.methods = methods
        self.name = f"{host.service_name}.{hooks.method_name}"
        self.max_body = host.settings.http_max_body

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, values: Mapping[str, Any], timers: Timers
    ) -> None:
        """Serve one request. *values* are those of the path's variables."""
        scope["path_params"] = values
        request = HttpRequest(scope)
        try:
            call = await self._call(request, receive)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - the hooks may be the user's
            self._log_refusal(error)
            response = await self._refused(request, error)
            await response(scope, receive, send)
        else:
            await HttpExchange(self, request, receive, send).run(call, timers)

    async def _call(self, request: HttpRequest, receive: Receive) -> Call:
        hooks, host = self.hooks, self.host
        headers = known_headers(request.scope)
        data = hooks.context_data_from_headers(request)
        context = context_from(headers, data, hooks.timeout)
        request.fill(await read_body(headers, receive, self.max_body))
        args, kwargs = hooks.get_entrypoint_parameters(request)
        return host.new_call(hooks, args, kwargs, context, "http")

    async def _refused(self, request: HttpRequest, error: Exception) -> Response:
        """Return the response to a wrong *request*, after the middleware has seen its *error*."""
        trace = trace_of(known_headers(request.scope))
        call = HttpCall(
            *(self.host.service_name, self.hooks.method_name),
            context=Context(data=trace),
            kind="http",
            entrypoint=self.hooks,
            request=request,
        )
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def settle(outcome: Outcome) -> None:
            if not ended.done():
                ended.set_result(outcome)

        refused = Outcome(Ending.REFUSED, error=error)
        self.host.refuse(call, refused, settle, lambda result: self.response_of(request, result))
        outcome = await ended
        if outcome.error is None:
            response: Response = outcome.value
            return response
        if isinstance(outcome.error, Exception):
            return _error_response(self.hooks, outcome.error)
        return _problem(outcome.error)

    def response_of(self, request: HttpRequest, result: Any) -> Response:
        """Return the response for the *result* of a method, or raise what is wrong with it."""
        response = self.hooks.response_from_result(result)
        return checked(response, bodiless=request.method == "HEAD")

    def _log_refusal(self, error: Exception) -> None:
        if isinstance(error, (BadRequest, HTTPException)):
            name, text = type(error).__name__, text_of(error)
            log.info("%s: a request was refused: %s: %s", self.name, name, text)
        else:
            log.error("%s: a request could not be read", self.name, exc_info=error)


class HttpExchange:
    """One request and its response. ``expired`` is called if the request takes long."""

    __slots__ = (
        *(
            "_endpoint",
            "_ended",
            "_held",
            "_hooks",
            "_host",
            "_is_events",
            "_outcome",
            "_receive",
            "_request",
        ),
        *("_response", "_result", "_send", "_started", "_submission", "_watch"),
    )

    def __init__(
        self, endpoint: HttpEndpoint, request: HttpRequest, receive: Receive, send: Send
    ) -> None:
        self._endpoint, self._hooks, self._host = endpoint, endpoint.hooks, endpoint.host
        self._request, self._receive, self._send = request, receive, send
        self._outcome: Outcome | None = None
        self._watch: asyncio.Task[None] | None = None
        #: The result of the method, and the response that was made of it.
        self._result: Any = None
        self._response: Response | None = None
        self._started = False
        self._is_events = False
        #: The end of a stream, which leaves when the dependencies have closed.
        self._held: Message | None = None

    async def run(self, call: Call, timers: Timers) -> None:
        """Run *call*, and send the response."""
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        fields = (call.service, call.method, call.args, call.kwargs, call.context, call.kind)
        call = HttpCall(
            *fields,
            id=call.id,
            entrypoint=call.entrypoint,
            request=self._request,
            _exchange=self,
        )
        submission = self._host.submit(self._hooks, call, self._settle, self._encode)
        self._submission: Submission | None = submission
        patience = timers.add(monotonic() + _PATIENCE, self)
        try:
            await self._ended
        except asyncio.CancelledError:  # the server stops, or a test's client has timed out
            submission.cancel()
            # The dependencies close first, because the code that cancels us may rely on that.
            self._ended = loop.create_future()
            if self._outcome is None:
                await asyncio.wait((self._ended,), timeout=self._host.settings.cleanup_timeout)
            raise
        finally:
            patience.pop(self, None)
            if self._watch is not None:
                self._watch.cancel()
            self._submission = None  # it has the call, which has us: a reference cycle
        await self._respond(call)

    def _settle(self, outcome: Outcome) -> None:
        self._outcome = outcome
        if not self._ended.done():
            self._ended.set_result(None)

    def expired(self) -> None:
        """Watch for a client that hangs up."""
        self._watch = asyncio.create_task(self._watch_client(), name="aiorpc http: watch client")

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        log.debug("%s: the client of a request hung up", self._hooks.method_name)
        if self._submission is not None:
            self._submission.cancel()

    # In the worker, with the dependencies open

    async def finish(self, result: Any) -> Any:
        """Make the response of the method's *result*. If it is a stream, send all but its end."""
        response = self._response = self._endpoint.response_of(self._request, result)
        self._result = result
        if not hasattr(response, "body"):
            await self._stream(response)
        return result

    def _encode(self, result: Any) -> Response:
        if self._response is not None and (self._started or result is self._result):
            return self._response
        return self._endpoint.response_of(self._request, result)  # a middleware changed the result

    async def _stream(self, response: Response) -> None:
        try:
            if isinstance(response, StreamingResponse):
                # Its __call__ would read the client's messages, and hide an OSError of the method.
                await response.stream_response(self._send_part)
                if response.background is not None:
                    await response.background()
            else:
                await response(self._request.scope, self._receive, self._send_part)
        except _HeadersSent:
            self._held = {"type": "http.response.body", "body": b"", "more_body": False}
        finally:
            items = getattr(response, "body_iterator", None)
            if (aclose := getattr(items, "aclose", None)) is not None:
                await aclose()

    async def _send_part(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._started:
                raise RuntimeError(
                    "the response has begun: a middleware cannot run a method again whose stream "
                    "has sent its first item"
                )
            self._started = True
            kinds = [value for name, value in message["headers"] if name == b"content-type"]
            self._is_events = any(kind.startswith(b"text/event-stream") for kind in kinds)
            await self._send(message)
            if self._request.method == "HEAD":
                raise _HeadersSent
        elif message.get("more_body"):
            await self._send(message)
        else:
            self._held = message

    # After the worker

    async def _respond(self, call: Call) -> None:
        outcome = self._outcome
        assert outcome is not None
        if outcome.ending is Ending.CANCELLED:
            return  # nobody is there
        if outcome.ending is Ending.RETURNED:
            if not self._started:
                await outcome.value(self._request.scope, self._receive, self._send)
            elif self._held is not None:
                await self._send(self._held)
            return
        current.set(call.context)
        response = self._failed(outcome)
        if not self._started:
            await response(self._request.scope, self._receive, self._send)
        elif self._is_events:
            body = b"event: problem\ndata: %b\n\n" % bytes(response.body)
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
        else:
            raise StreamCut(str(call))

    def _failed(self, outcome: Outcome) -> Response:
        error = outcome.error
        if error is None:  # the service stops, and did not run the call to its end
            headers = {"retry-after": "1", "connection": "close"}
            return _problem(HTTPException(503, "The server stops. Repeat the request.", headers))
        if not isinstance(error, Exception):  # a CancelledError or SystemExit of the method
            return _problem(error)
        response = _error_response(self._hooks, error)
        if outcome.secrets:
            _hide(response, outcome.secrets)
        return response


def _error_response(hooks: Hooks, error: Exception) -> Response:
    try:
        return checked(hooks.response_from_exception(error))
    except Exception as failure:
        log.exception("%s: response_from_exception failed", hooks.method_name)
        return _problem(failure)


def _problem(error: BaseException) -> Response:
    stack = current.get().call_id_stack
    return problem_response(error, call_id=stack[-1] if stack else "")


def _hide(response: Response, secrets: tuple[str, ...]) -> None:
    every = {*secrets, *(json.dumps(each)[1:-1] for each in secrets)}
    body = bytes(response.body).decode("utf-8", "replace")
    response.body = hide(body, every).encode()
    response.headers["content-length"] = str(len(response.body))
