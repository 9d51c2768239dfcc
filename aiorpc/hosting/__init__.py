"""A container hosts one service class, a worker runs one method once, a runner is one process."""
