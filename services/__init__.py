"""Examples: each of them runs by itself, ``aiorpc run services.service_x``."""
