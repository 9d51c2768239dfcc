"""Bring up RabbitMQ, PostgreSQL and MariaDB for the tests, by what this machine has.

    python -m tests.servers up          find or start them, print their URLs
    python -m tests.servers down        end just what `up` (or a test) started
    python -m tests.servers urls        print the URLs of those that live, as NAME=URL
    ... up|urls --exports               the same for a shell: eval "$(... urls --exports)"

For each server the first way that works is taken:

1. its URL in the environment: AIORPC_TEST_AMQP_URI, AIORPC_TEST_POSTGRESQL_URI,
   AIORPC_TEST_MYSQL_URI; it has to answer, and is never replaced by another way;
2. the one that an earlier `up` started, if it still lives;
3. `docker compose up -d --wait`, when a Docker engine answers; `compose.yaml` states the URLs;
4. the server's program, if it is installed: started privately, on loopback only, on free ports
   below the ephemeral range, with its data, log and cookie under `.servers/`. System services,
   their data and their ports are not touched. Root does not run servers itself: their usual user
   does, or `nobody`; where that user cannot enter `.servers/`, the data is under /tmp;
5. as root on Debian or Ubuntu: `apt-get install`, services forbidden meanwhile, then as 4.

What cannot be had is said in one loud line with the remedy, and `up` goes on; the exit code is 1
then, but only with AIORPC_REQUIRE_SERVERS=1. Private servers are for tests: they start empty, do
not wait for the disk, and are gone with their data after `down`. `.servers/state.json` says what
runs, by process id and start time; AIORPC_SERVERS_DIR names another directory, for a second,
independent set.

In Python, blocking (from a coroutine: `asyncio.to_thread`):

    from tests.servers import Rabbit, urls

    urls().rabbitmq                     # a URL, or None; also .postgresql, .mysql
    with Rabbit.fresh() as rabbit:      # a node of this test's own, to maltreat
        rabbit.stop(); rabbit.start()   # same port, same durable data; .kill() is SIGKILL
        rabbit.ctl("list_queues", "name", "messages")
        rabbit.url, rabbit.pid, rabbit.log
    Rabbit.main()                       # the private node of `up`; None if RabbitMQ is not ours
"""

from __future__ import annotations

from .process import ServerError
from .provision import Urls, down, up, urls
from .rabbitmq import Rabbit

__all__ = ["Rabbit", "ServerError", "Urls", "down", "up", "urls"]
