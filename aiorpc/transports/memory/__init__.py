"""A broker in this process, with RabbitMQ's semantics. No sockets."""
