"""
Runs the Nameko services until standard input ends, so that they never outlive the tests.

`python serve.py AMQP_URI`. Prints one line, `ready`, when they consume. Exits 1, with Nameko's
traceback, when a container was killed.
"""

import logging
import os
import sys

import stack

stack.configure({"AMQP_URI": sys.argv[1], "max_workers": 10})

import eventlet  # noqa: E402
import eventlet.hubs  # noqa: E402

import services  # noqa: E402


def exit_at_end_of_input():
    """End the process at once: a clean stop takes Nameko 1 s, and no call is waiting."""
    while True:
        eventlet.hubs.trampoline(sys.stdin.fileno(), read=True)
        if not os.read(sys.stdin.fileno(), 1024):
            os._exit(0)


def main():
    logging.basicConfig(level=logging.INFO)
    runner = stack.runner()
    runner.add_service(services.ServiceX)
    runner.add_service(services.ServiceY)
    runner.start()
    print("ready", flush=True)
    eventlet.spawn(exit_at_end_of_input)
    runner.wait()


main()
