"""
Discovery: every instance of a service answers what it is, what it has done, and what it does now.

``aiorpc ls``, ``aiorpc top`` and other tools publish a question to a fanout exchange. The routing
key is the question, as in NATS's services (ADR-32): ``PING``, ``INFO``, ``STATS``, or one of ours,
``STACKS`` and ``CONTRACT``; then the service and the instance if the question is for one:
``STATS.shop.3f2a``. The body is empty. Every instance sends its answer, in JSON, to the queue in
``reply_to``.
"""
