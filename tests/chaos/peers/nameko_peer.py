"""
Nameko under the same faults. Runs in Nameko's own virtual environment.

`nameko_peer.py serve URI SERVICE FILE` hosts the service, which appends a line to FILE for each
run. `nameko_peer.py call URI SERVICE` reads lines `ID TIMEOUT HOLD METHOD` and prints `ID KIND`. It
makes each call in a green thread, on a standalone proxy that no other call uses at that time. The
method `event` stands for an event, and `nan` for `work` with NaN in the context data.
"""

import eventlet

eventlet.monkey_patch()

import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

from nameko.events import event_handler  # noqa: E402
from nameko.rpc import RpcProxy, rpc  # noqa: E402
from nameko.runners import ServiceRunner  # noqa: E402
from nameko.standalone.events import event_dispatcher  # noqa: E402
from nameko.standalone.rpc import ClusterRpcProxy  # noqa: E402

MODE, URI, SERVICE = sys.argv[1:4]
CONFIG = {"AMQP_URI": URI, "max_workers": 100, "HEARTBEAT": 2}
CONFIG.update(json.loads(os.environ.get("PEER_CONFIG", "{}")))
HURRY = bool(os.environ.get("CHAOS_HURRY"))
#: Characters of a result and of an error that a broker with a limit of 1 MB refuses.
LARGE, LARGE_ERROR = 2_000_000, 900_000
NAN = {"ratio": float("nan")}


def record(call_id):
    os.write(ledger, f"{call_id} {os.getpid()}\n".encode())


class Service:
    name = SERVICE
    itself = RpcProxy(SERVICE)

    @rpc
    def work(self, call_id, hold):
        record(call_id)
        eventlet.sleep(hold)
        return f"done {call_id}"

    @rpc
    def give(self, call_id, hold):
        return self.work(call_id, hold).ljust(LARGE)

    @rpc
    def fail(self, call_id, hold):
        self.work(call_id, hold)
        raise ValueError("x" * LARGE_ERROR)

    @rpc
    def take(self, call_id, hold, data):
        return self.work(call_id, hold)

    @rpc
    def spread(self, call_id, hold):
        self.itself.worker_ctx.data.update(NAN)
        return self.itself.work(call_id, hold)

    @event_handler(f"{SERVICE}_source", "happened")
    def handle(self, payload):
        if payload["call_id"] == "poison":
            record(payload["call_id"])
            os._exit(9)
        eventlet.sleep(0 if HURRY else payload["hold"])
        record(payload["call_id"])


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


def call_once(call_id, timeout, hold, method):
    if method == "event":
        dispatch(f"{SERVICE}_source", "happened", {"call_id": call_id, "hold": hold})
        return f"done {call_id}"
    if method == "nan":
        with ClusterRpcProxy(CONFIG, context_data=NAN, timeout=timeout) as spoiled:
            return spoiled[SERVICE].work(call_id, hold)
    proxy = idle.pop() if idle else ClusterRpcProxy(CONFIG, timeout=timeout).start()
    more = ("x" * LARGE,) if method == "take" else ()
    answer = getattr(proxy[SERVICE], method)(call_id, hold, *more)
    idle.append(proxy)
    return answer


def make(call_id, timeout, hold, method):
    try:
        answer = call_once(call_id, timeout, hold, method).rstrip()
        print(call_id, "right" if answer == f"done {call_id}" else "wrong", flush=True)
    except Exception as error:
        print(call_id, type(error).__name__, flush=True)


def call():
    print("peer ready: it calls", flush=True)
    while line := eventlet.tpool.execute(sys.stdin.readline):
        call_id, timeout, hold, method = line.split()
        eventlet.spawn(make, call_id, float(timeout), float(hold), method)


if MODE == "serve":
    ledger = os.open(sys.argv[4], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    serve()
else:
    import eventlet.tpool

    dispatch = event_dispatcher(CONFIG)
    call()
