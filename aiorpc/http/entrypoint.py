"""
``@http``: methods that HTTP requests start, as Nameko's ``http``. Awaits the web server, and sends
streams.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from ..call import Call
from ..context import EMPTY, current
from ..declarations import decorator_of, service_name_of
from ..entrypoints.arguments import require_call
from ..exceptions import BadRequest, ConfigurationError, MethodNotFound
from ..extensions import Host
from ..wire.conversion import Unsupported
from ..wire.errors import safe_for_serialization
from ..wire.signatures import result_type, unwrapped
from .arguments import Binder
from .exchange import Hooks, HttpEndpoint
from .problems import problem_response
from .requests import HttpCall, HttpRequest
from .responses import ServerSentEvent, response_of
from .routes import Exposed, Rule, methods_of
from .server import WebServer

__all__ = ["HttpEntrypoint", "NamekoHttpEntrypoint", "http"]


@dataclass(eq=False, repr=False)
class HttpEntrypoint(Hooks):
    """
    Starts a method for each request with one of the HTTP methods in *method* and a path like *url*.

    A subclass overrides ``response_from_exception`` and the other methods below, as in Nameko; then
    its ``decorator`` is the ``@http`` of a service.

    Args:
        method: one HTTP method, or several with commas: ``"GET,POST"``. GET answers HEAD too.
        url: a path, such as ``/books/<int:id>`` or ``/books/{id:int}``.
        timeout: seconds to answer. A deadline of the client can only shorten it. None: unlimited.
        validate: find, check and convert the arguments by their annotations. False: the method
            gets the request and the values of the path, as in Nameko.
        expected_exceptions: errors that are answers with status 400, and warnings in the log.
    """

    streams: ClassVar[bool] = True
    finishes: ClassVar[bool] = True
    answers: ClassVar[tuple[type[Exception], ...]] = (HTTPException, BadRequest)

    method: str
    url: str
    timeout: float | None = field(default=None, kw_only=True)
    validate: bool = field(default=True, kw_only=True)
    #: Of the container's copy: finds arguments; None: ``validate`` is false.
    _binder: Binder | None = field(default=None, init=False)
    _yields_events: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._methods = methods_of(self.method)
        self._rule = Rule(self.url)
        if self.timeout is not None and not (
            isinstance(self.timeout, (int, float)) and self.timeout > 0
        ):
            raise ConfigurationError(
                f"the timeout of @http must be a number above 0 seconds, or None, got "
                f"{self.timeout!r}"
            )

    # What a subclass may override

    def context_data_from_headers(self, request: HttpRequest) -> Mapping[str, Any]:
        """
        Return the context data of the call that *request* starts: by default none. Calls that the
        method makes inherit it. The body of *request* is not read yet.
        """
        return EMPTY

    def get_entrypoint_parameters(
        self, request: HttpRequest
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return the arguments for the method. An error is answered like one of the method."""
        if self._binder is None:
            return (request,), request.path_params
        return self._binder.bind(request, request.path_params)

    def response_from_result(self, result: Any) -> Response:
        """Return the response for what the method returned. Runs with the dependencies open."""
        return response_of(result, events=self._yields_events)

    def response_from_exception(self, exc: Exception) -> Response:
        """Return the response for an error: 400 if it is expected, else by the table of errors."""
        stack = current.get().call_id_stack
        status = None
        if isinstance(exc, HTTPException):
            pass  # it has its own
        elif isinstance(exc, self.expected_exceptions):
            status = 400
        elif isinstance(exc, MethodNotFound):  # of a service that the method calls
            status = 500
        return problem_response(exc, call_id=stack[-1] if stack else "", status=status)

    # What the host calls

    def route(self, host: Host) -> str:
        return f"{','.join(self._methods)} {self.url}"

    def exposed(self, service_cls: type) -> Exposed:
        """Return what the route offers, for ``aiorpc contract``."""
        rule, name = self._rule, f"{service_name_of(service_cls)}.{self.method_name}"
        body, parameters = None, frozenset(rule.names)
        if self.validate:
            static = isinstance(inspect.getattr_static(service_cls, self.method_name), staticmethod)
            function = getattr(service_cls, self.method_name)
            binder = Binder(
                function, rule, self._methods, skip_self=not static, mode="strict", name=name
            )
            body, parameters = binder.whole_body, parameters | binder.beside_path
        return Exposed(self._methods, rule.template, rule.names, body, parameters)

    @classmethod
    @asynccontextmanager
    async def listen_all(
        cls, host: Host, entrypoints: Sequence[HttpEntrypoint]
    ) -> AsyncGenerator[None]:
        endpoints = [each._endpoint(host) for each in entrypoints]
        # Shared, so that it closes after the workers: their responses leave during a drain too.
        server = await host.share(WebServer, lambda: WebServer.serving(host))
        async with server.accepting(endpoints):
            yield

    def _endpoint(self, host: Host) -> HttpEndpoint:
        name = f"{host.service_name}.{self.method_name}"
        function = getattr(host.service_cls, self.method_name)
        declared = inspect.getattr_static(host.service_cls, self.method_name)
        skip_self = not isinstance(declared, staticmethod)
        mode = host.settings.validate_arguments
        if not self.validate:
            require_call(self, host, (None,), dict.fromkeys(self._rule.names))
        else:
            self._binder = Binder(
                function, self._rule, self._methods, skip_self=skip_self, mode=mode, name=name
            )
        self._yields_events = _yields_events(function)
        return HttpEndpoint(self, host, self._rule, self._methods)

    async def finish(self, call: Call, result: Any) -> Any:
        if isinstance(call, HttpCall) and call._exchange is not None:
            return await call._exchange.finish(result)
        if isinstance(result, AsyncIterator):  # a test runs the method without a request
            return [item async for item in result]
        return result


def _yields_events(function: Any) -> bool:
    try:
        items = result_type(unwrapped(function))
        return items is ServerSentEvent or ServerSentEvent in get_args(items)
    except Unsupported:
        return False


class NamekoHttpEntrypoint(HttpEntrypoint):
    """
    Answers errors with Nameko's text, ``Error: <type>: <value>``, and Nameko's status: 400 for an
    expected error or a wrong request, else 500. The text of an unexpected error leaves the service.
    """

    def response_from_exception(self, exc: Exception) -> Response:
        expected = isinstance(exc, (self.expected_exceptions, BadRequest))
        text = f"Error: {type(exc).__name__}: {safe_for_serialization(exc)}\n"
        return PlainTextResponse(text, 400 if expected else 500)


http = decorator_of(HttpEntrypoint)
