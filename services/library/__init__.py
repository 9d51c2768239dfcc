"""
A small library: what it owns, on PostgreSQL, and who has borrowed what, on MariaDB, in one service;
its members in another. Without servers all three databases are SQLite files; see config.yaml.
"""
