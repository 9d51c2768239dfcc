"""
What fires methods. Each file is one kind and stands on ``aiorpc.extensions``; what consumes a queue
stands on ``consumer`` too.
"""
