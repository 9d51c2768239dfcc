"""
A Nameko standalone client. It reads a JSON line for each command and answers with one
(`values.py`).

`python client.py AMQP_URI` reads from standard input `{service, method, calls: [[args, kwargs],
...], context, timeout}`. It sends all calls, then waits for their answers in reverse order. It
writes `{"answers": [{"result": ...} | {"error": {type, module, text, exc_type, value, args}}]}`.
"""

import sys

import stack

stack.configure({"AMQP_URI": sys.argv[1]})

import peer_errors  # noqa: E402, F401 - registers its classes
import values  # noqa: E402

clusters = {}


def cluster_for(context, timeout):
    """Keep one client for each context and timeout, which a standalone client cannot change."""
    key = values.dumps([context, timeout])
    if key not in clusters:
        clusters[key] = stack.cluster(context, timeout)
    return clusters[key]


def told(error):
    return {
        "type": type(error).__name__,
        "module": type(error).__module__,
        "text": str(error),
        "exc_type": getattr(error, "exc_type", None),
        "value": getattr(error, "value", None),
        "args": list(error.args),
    }


def attempt(act, *args, **kwargs):
    try:
        return {"result": act(*args, **kwargs)}
    except Exception as error:
        return {"error": told(error)}


def answers_to(command):
    cluster = cluster_for(command["context"], command["timeout"])
    method = getattr(cluster[command["service"]], command["method"])
    sent = [attempt(method.call_async, *args, **kwargs) for args, kwargs in command["calls"]]
    return [attempt(one["result"].result) if "result" in one else one for one in reversed(sent)][
        ::-1
    ]


for line in sys.stdin:
    answers = answers_to(values.loads(line))
    print(values.dumps({"answers": answers}), flush=True)
