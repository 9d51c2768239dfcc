"""
Kill -9 everywhere: a process is killed at each point of call -> commit -> outbox -> publish ->
reply, and the ledger shows each order and its effect once.
"""
