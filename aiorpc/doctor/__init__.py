"""
``aiorpc doctor``: looks for what is wrong with a configuration, its broker and its databases, from
where the user stands. It declares nothing, acks nothing and changes nothing.

Awaits sockets, the broker, the management API and databases. Each wait has a bound. SQLAlchemy is
imported by the check of databases only.
"""
