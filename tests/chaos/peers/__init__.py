"""
Nameko and aio-pika's `patterns.RPC` under faults of this suite, for the table in the documentation:
`python -m tests.chaos.peers`. No part of `make test`.
"""
