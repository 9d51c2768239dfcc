"""AMQP frames as bytes and values. No I/O, and no AMQP library."""
