"""
The dependency providers of aiorpc. Files here import ``extensions`` and ``calling``, but not one
another.
"""
