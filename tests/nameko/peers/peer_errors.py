"""
Errors that Nameko and aiorpc know by the same import path, and errors that only the raising side
knows.

The Nameko processes import this file from their script directory. The tests define the same classes
with the same ``__module__``.
"""

from nameko.exceptions import deserialize_to_instance


@deserialize_to_instance
class KnownError(Exception):
    """Registered on both sides: it arrives as itself, its arguments as strings."""


class CustomError(Exception):
    """Not registered: it arrives as RemoteError."""


class NoText(Exception):
    """Its ``str()`` fails."""

    def __str__(self):
        raise ValueError("no text")
