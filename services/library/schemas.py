"""Authors and books as callers see them. What has no schema goes with all its columns."""

from __future__ import annotations

from typing import Any

from marshmallow_sqlalchemy import SQLAlchemyAutoSchema
from marshmallow_sqlalchemy.fields import Nested

from services.library.models import Author, Book


class AuthorSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Author

    books = Nested(lambda: BookSchema, many=True, only=("id", "title"))


class BookSchema(SQLAlchemyAutoSchema[Any]):
    class Meta:
        model = Book

    author = Nested(AuthorSchema, only=("name",))
