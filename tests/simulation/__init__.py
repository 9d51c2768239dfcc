"""
The simulator: clients, services and a broker in one thread, in virtual time, under faults that a
seed chooses. After FoundationDB's simulation and TigerBeetle's VOPR. The same seed gives the same
run, on each Python, so a fault that it finds can be played again.

What is real: proxies, client, containers, workers, entrypoints, attempts, streams, singletons,
discovery, timers, the outbox, the channels of AMQP and their lane, the broker of ``memory://``, and
in a part of the runs sessions, idempotency keys, outbox and inbox, SQLAlchemy and sqlite3.
What is simulated:

- ``loop``: an event loop without clock, sockets and threads. A process is a set of callbacks. The
  callbacks of one process run in their order, because asyncio promises that for ``call_soon``.
  Those of two processes have no order in reality, so the seed picks the next process at each step.
  Time passes with each step, and jumps to the next timer when nothing is ready.
- ``determinism``: clocks, UUIDs and the order of sets in the modules of aiorpc. The wall clock of
  each process has its own skew. Sync methods need threads, so the simulator has none.
- ``network``: what is sent takes time, keeps its order within a channel only, and is lost with its
  connection. The broker confirms later, acks are on their way, an answer may be lost with the ack
  that follows it.
- ``channels``: the socket, and the broker's side of a channel. ``transport``, ``claims``: what
  needs aiormq. They follow the supervisor, the subscriptions and the claims of
  ``aiorpc.transports.amqp``, which are tested on RabbitMQ.
- ``database``: the driver of sqlite3. A statement takes time to its database and back, waits for
  the lock in virtual time, and may be lost with its connection before or after it, or the COMMIT,
  was carried out. ``databases``: the files of a run, and databases that are slow, mute or gone.
- ``faults``: a list made before the run. A fault strikes at a time, or before or after the n-th
  frame of a kind. It cuts a connection (each end notices when it does), crashes a process (its
  memory is gone, what it acked is acked), stalls or drains it, closes a channel, refuses a message,
  deletes a queue, blocks or crashes the broker (it keeps what is durable and persistent), slows the
  network, or sets a clock wrong.
- ``workload``, ``services``, ``bank``: calls with deadlines, cancellations, nested calls, streams,
  events, errors, and messages that crash the processes that run them.

What is checked: ``ledger`` sees all calls, runs, transactions and events from outside.

1. A call ends by its deadline. It gets the answer of a run of its own method, which returned and
   committed before, or an error of the kind that its script or a fault explains.
   A transaction is committed if its method returned, and else rolled back (``accounts``).
2. An at-most-once method runs at most once, and so does each stream and each tick of a singleton.
   Without a fault, no method runs twice. In one process, no message runs beside itself, and an
   answered request does not run again.
3. The handlers of an event get it, or it is parked, after MAX_ATTEMPTS and not before.
   With a key, a call has one effect at most, and all calls with the key get the answer of that run.
   An event of an outbox is sent if and only if its transaction committed, those of one key in the
   order of the commits, and not twice without a fault. An inbox has one effect for each message.
4. A cancelled call is cancelled in its service.
5. A stream gives each item once and in order, not more of them than its caller has room for, and
   all of them before its end.
6. The broker (``book``) gets an answer before the ack of its request, a mark on what is sent again,
   no higher count of attempts than deliveries failed, and nothing that closes a channel. What is
   durable outlives it.
7. After the faults, each client calls each service, and gets its answer. Then no table, queue,
   timer, task, transaction or connection holds anything (``at_rest``), and every process stops in
   time.
8. The log has no traceback of aiorpc's, and no error that no fault explains (``log_lines``).

A seed that fails is played with fewer faults, until none can be left out (``shrink``).
``mutants.py`` has faults of aiorpc that the simulator finds; ``mutants.md`` shows how soon.

    make simulate SEEDS=1000      # new seeds, which it prints; a failing one prints its command
    make simulate SEEDS=7:1007    # those again
    make simulate SEED=42         # one seed: its story, its trace
"""
