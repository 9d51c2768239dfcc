"""
The chaos suite: callers call services at a given rate while a fault breaks broker, network or
processes. A ledger in PostgreSQL counts every run of every call.

`test_chaos.py` is the short form, in `make test`. `python -m tests.chaos` (`make chaos`) is the
long form; it prints the table of docs/guarantees.md.
"""
