"""
Runs services in several worker processes: ``supervisor`` starts and replaces them, ``process`` is
one of them as the supervisor sees it, ``parent`` is the supervisor as a worker process sees it, and
``messages`` is what they tell each other.
"""
