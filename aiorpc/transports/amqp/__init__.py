"""RabbitMQ. The only folder that may import aio-pika, aiormq or pamqp."""
