"""Database URLs, drivers, engines and pools."""
