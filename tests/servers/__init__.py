"""Finds or starts RabbitMQ, PostgreSQL and MariaDB for the tests, with what this machine has.

    python -m tests.servers up          find or start them, print their URLs
    python -m tests.servers down        stop only what `up` or a test started
    python -m tests.servers urls        print the URLs of running servers as NAME=URL
    ... up|urls --exports               print them for a shell: eval "$(... urls --exports)"

For each server, `up` takes the first way that works:

1. its URL in the environment: AIORPC_TEST_AMQP_URI, AIORPC_TEST_POSTGRESQL_URI,
   AIORPC_TEST_MYSQL_URI. If that server does not answer, no other way is tried;
2. the server that an earlier `up` started, if it still runs;
3. `docker compose up -d --wait`, if a Docker engine answers. `compose.yaml` has the URLs;
4. the installed program, started privately: on loopback, on free ports below the ephemeral range,
   with data, log and cookie under `.servers/`. It touches no system service, its data or its port.
   For root, the server runs as its usual user, or as `nobody`. If that user cannot enter
   `.servers/`, the data is under /tmp;
5. as root on Debian or Ubuntu: `apt-get install` without starting services, then way 4.

If no way works, `up` prints the remedy in one line and continues. With AIORPC_REQUIRE_SERVERS=1 it
then exits with 1. Private servers are for tests: they start empty and do not wait for the disk;
`down` removes them with their data. `.servers/state.json` lists what runs, by process id and start
time. AIORPC_SERVERS_DIR names another directory, for a second, independent set.

From Python (these calls block; in a coroutine use `asyncio.to_thread`):

    from tests.servers import Rabbit, urls

    urls().rabbitmq                     # a URL, or None; also .postgresql, .mysql
    with Rabbit.fresh() as rabbit:      # a node that only this test uses and breaks
        rabbit.stop(); rabbit.start()   # same port, same durable data; .kill() is SIGKILL
        rabbit.ctl("list_queues", "name", "messages")
        rabbit.url, rabbit.pid, rabbit.log
    with Cluster.fresh() as cluster:    # three nodes; .cut_off(node), .join(node), .start()
        cluster.nodes[0].kill()         # also .freeze(), .thaw()
    Rabbit.main()                       # the private node of `up`; None if `up` started none
"""

from __future__ import annotations

from .cluster import Cluster
from .process import ServerError
from .provision import Urls, down, up, urls
from .rabbitmq import ManagedRabbit, Rabbit

__all__ = ["Cluster", "ManagedRabbit", "Rabbit", "ServerError", "Urls", "down", "up", "urls"]
