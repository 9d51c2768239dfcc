"""The ``@http`` methods of one service, for Nameko and for aiorpc. Imports the standard library."""

from __future__ import annotations


def service_of(http, bad_request):
    """Return the service class, made with the decorator *http* and the error *bad_request*."""

    class Web:
        name = "web"

        @http("GET,POST", "/books/<int:number>")
        def book(self, request, number):
            return f"{request.method} {number!r}"

        @http("GET", "/body")
        def body(self, request):
            return "ö"

        @http("GET", "/status")
        def status(self, request):
            return 202, "accepted"

        @http("GET", "/headers")
        def headers(self, request):
            return 201, {"X-Shop": "a", "Content-Type": "application/json"}, "{}"

        @http("GET", "/expected", expected_exceptions=ValueError)
        def expected(self, request):
            raise ValueError("a", 1)

        @http("GET", "/refused")
        def refused(self, request):
            raise bad_request("no")

        @http("GET", "/failed")
        def failed(self, request):
            raise KeyError("k")

        @http("GET", "/folder/")
        def folder(self, request):
            return "folder"

        @http("GET", "/files/<path:file>")
        def file(self, request, file):
            return file

        @http("GET", "/both/<string:text>/<uuid:key>/<float:number>")
        def both(self, request, text, key, number):
            return f"{text} {key} {number}"

    return Web
