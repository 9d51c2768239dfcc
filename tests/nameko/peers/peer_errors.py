"""
Errors that Nameko and aiorpc know by the same import path, and some that only the raising side
knows.

Imported by the Nameko processes, whose script directory is on their path; the tests define their
twins with the same ``__module__``.
"""

from nameko.exceptions import deserialize_to_instance


@deserialize_to_instance
class KnownError(Exception):
    """Registered on both sides: it arrives as itself, its arguments as strings."""


class CustomError(Exception):
    """Registered nowhere: it arrives as RemoteError."""


class NoText(Exception):
    """Its text cannot be had."""

    def __str__(self):
        raise ValueError("no text")
