"""
What a service gets for each call. Files here stand on ``extensions`` and ``calling``, and do not
import one another.
"""
