"""The caller's side: clients, proxies and their options. May import transports and wire."""
