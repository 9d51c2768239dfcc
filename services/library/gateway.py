"""The library over HTTP: ``POST /rpc/library/find_books``, and its OpenAPI page on ``/docs``."""

from __future__ import annotations

from starlette.requests import Request

from aiorpc.http import Gateway
from services.library.library import Library, NotAvailable
from services.library.members import Members

#: Who may borrow books. A real library asks an identity provider.
TOKENS = {"Bearer reading-is-fun": "the front desk"}


def authenticate(request: Request) -> dict[str, str] | None:
    user = TOKENS.get(request.headers.get("authorization", ""))
    return None if user is None else {"user_id": user}


gateway = Gateway(
    services=[(Library, ["find_books", "lend", "give_back"]), (Members, ["join"])],
    authenticate=authenticate,
    errors={NotAvailable: 409},
)
