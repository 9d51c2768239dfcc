"""
The chaos suite: services and callers that work at a stated rate, while broker, network and
processes are broken around them. A ledger in PostgreSQL counts every run of every call.

`test_chaos.py` is the short form, in `make test`; `python -m tests.chaos` (`make chaos`) the long
one, which prints the table of docs/guarantees.md.
"""
