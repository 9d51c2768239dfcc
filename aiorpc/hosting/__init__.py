"""
Hosting: a container hosts one service class, its pool runs calls in workers, a worker runs one
method once, and a runner manages the containers of one process.
"""
