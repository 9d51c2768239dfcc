"""
Entrypoints start the methods of a service. Each file has one kind and uses ``aiorpc.extensions``;
kinds that consume a queue also use ``consumer`` or ``requests``.
"""
