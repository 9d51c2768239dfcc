"""Example services. Each runs by itself: ``aiorpc run services.service_x``."""
