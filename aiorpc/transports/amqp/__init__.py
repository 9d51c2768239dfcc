"""RabbitMQ. The only folder that may import aiormq or pamqp."""
