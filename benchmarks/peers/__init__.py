"""
The peers: one module each, run as ``python -m peers.NAME server|client`` in the directory
``benchmarks`` by the interpreter of its own virtual environment. All of them share ``load``.
"""
