"""
Nameko and aio-pika's `patterns.RPC` under the faults of this suite, for the table in the docs:
`python -m tests.chaos.peers`. Not part of `make test`.
"""
