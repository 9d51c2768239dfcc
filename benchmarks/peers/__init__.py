"""
The contenders: one module each, run as ``python -m peers.NAME server|client`` in the directory
``benchmarks`` by the interpreter of its own virtual environment. ``load`` says what all of them do.
"""
