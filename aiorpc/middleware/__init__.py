"""
Middleware to install by configuration (``MIDDLEWARE``) or in code. Each middleware is a leaf: its
file imports its third party, if it has one, and no other middleware.
"""
