"""Database URLs, drivers, engines and their connection pool. Knows no session and no service."""
