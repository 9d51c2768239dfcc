"""Serves ``web_methods`` with Nameko on the port that is its argument, until its input ends."""

# The monkey-patching comes first.
import eventlet

eventlet.monkey_patch()

import sys  # noqa: E402

from eventlet import tpool  # noqa: E402
from nameko.containers import ServiceContainer  # noqa: E402
from nameko.exceptions import BadRequest  # noqa: E402
from nameko.web.handlers import http  # noqa: E402
from web_methods import service_of  # noqa: E402

config = {"WEB_SERVER_ADDRESS": "127.0.0.1:" + sys.argv[1]}
container = ServiceContainer(service_of(http, BadRequest), config)
container.start()
print("serving", flush=True)
tpool.execute(sys.stdin.read)
container.kill()
