"""
The chaos suite: callers call services at a given rate while a fault breaks broker, network or
processes. A ledger in PostgreSQL counts every run of every call.

`test_chaos.py` is the short form, in `make test`. `python -m tests.chaos` (`make chaos`) is the
long form; it prints the table of docs/measurements.md.

Refusals are scenarios in which the broker stays, and refuses messages: `refusals.py`.

Fuzzing is a part of both: a client that sends malformed messages to a service, and a proxy that
spoils the frames of the broker. `python -m tests.chaos.fuzz --help` shows how to play one seed
again.
"""
