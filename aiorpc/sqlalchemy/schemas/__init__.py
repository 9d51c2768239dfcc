"""Marshmallow schemas: arguments are loaded, results are dumped."""
