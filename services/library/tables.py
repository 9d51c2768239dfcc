"""
Create the tables that are missing in the databases of config.yaml; in production this is the work
of migrations (Alembic)::

    python -m services.library.tables
    aiorpc run services.library.library services.library.members services.library.letters \\
        services.library.gateway --config services/library/config.yaml
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiorpc.sqlalchemy import create_tables
from services.library.library import Library
from services.library.members import Members

if __name__ == "__main__":
    asyncio.run(create_tables(Path(__file__).with_name("config.yaml"), Library, Members))
