"""ORM objects as arguments and results. Only this folder imports marshmallow."""
