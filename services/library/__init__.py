"""
A small library. One service keeps books on PostgreSQL and loans on MariaDB; another keeps members.
Without servers, all three databases are SQLite files; see config.yaml.
"""
