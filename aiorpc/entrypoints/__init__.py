"""
Entrypoints: what fires the methods of a service. Each file is one kind and stands on
``aiorpc.extensions``; those that consume a queue also stand on ``consumer`` or ``requests``.
"""
