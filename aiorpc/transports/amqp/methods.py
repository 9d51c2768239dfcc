"""
The AMQP methods that name queues and exchanges, as frames of pamqp. Pure; may import pamqp.

pamqp (4.0) refuses names that RabbitMQ takes: all that are not ASCII letters, digits or one of
``-_.:@#,/+`` and the space, exchanges over 127 characters, queues over 256. RabbitMQ (3.10 to 4.3)
takes any UTF-8 of at most 255 bytes, which :class:`..wire.message.Queue` checks.
"""

from __future__ import annotations

from pamqp import commands

__all__ = ["Consume", "ExchangeDeclare", "Get", "QueueBind", "QueueDeclare", "QueueDelete"]


class _AnyName:
    """Comes before a class of pamqp, and skips its check of names."""

    def validate(self) -> None:
        pass


class ExchangeDeclare(_AnyName, commands.Exchange.Declare):
    pass


class QueueDeclare(_AnyName, commands.Queue.Declare):
    pass


class QueueBind(_AnyName, commands.Queue.Bind):
    pass


class QueueDelete(_AnyName, commands.Queue.Delete):
    pass


class Consume(_AnyName, commands.Basic.Consume):
    pass


class Get(_AnyName, commands.Basic.Get):
    pass
