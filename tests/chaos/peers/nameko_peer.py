"""
Nameko under the same faults. Runs in Nameko's own virtual environment.

`nameko_peer.py serve URI SERVICE FILE` hosts the service, which appends a line to FILE for each
run. `nameko_peer.py call URI SERVICE` reads lines `ID TIMEOUT HOLD` and prints `ID KIND`. It makes
each call in a green thread, on a standalone proxy that no other call uses at that time.
"""

import eventlet

eventlet.monkey_patch()

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

from nameko.rpc import rpc  # noqa: E402
from nameko.runners import ServiceRunner  # noqa: E402
from nameko.standalone.rpc import ClusterRpcProxy  # noqa: E402

MODE, URI, SERVICE = sys.argv[1:4]
CONFIG = {"AMQP_URI": URI, "max_workers": 100, "HEARTBEAT": 2}


class Service:
    name = SERVICE

    @rpc
    def work(self, call_id, hold):
        os.write(ledger, f"{call_id}\n".encode())
        eventlet.sleep(hold)
        return f"done {call_id}"


def serve():
    """Serve as `nameko run` does."""
    runner = ServiceRunner(CONFIG)
    runner.add_service(Service)

    def on_sigterm(signum, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_sigterm)
    runner.start()
    print("peer ready: it consumes", flush=True)
    waiting = eventlet.spawn(runner.wait)
    while True:
        try:
            waiting.wait()
            break
        except KeyboardInterrupt:
            runner.stop()


idle = []


def make(call_id, timeout, hold):
    proxy = None
    try:
        proxy = idle.pop() if idle else ClusterRpcProxy(CONFIG, timeout=timeout).start()
        answer = proxy[SERVICE].work(call_id, hold)
        print(call_id, "right" if answer == f"done {call_id}" else "wrong", flush=True)
        idle.append(proxy)
    except Exception as error:
        print(call_id, type(error).__name__, flush=True)


def call():
    print("peer ready: it calls", flush=True)
    while line := eventlet.tpool.execute(sys.stdin.readline):
        call_id, timeout, hold = line.split()
        eventlet.spawn(make, call_id, float(timeout), float(hold))


if MODE == "serve":
    ledger = os.open(sys.argv[4], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    serve()
else:
    import eventlet.tpool

    call()
