"""
The outbox: events and messages that are sent exactly when the transaction of a call commits. Each
is a row of a table until the broker has confirmed it.
"""
