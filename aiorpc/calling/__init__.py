"""The caller's side: client, proxies, options. May import transports, wire and extensions."""
