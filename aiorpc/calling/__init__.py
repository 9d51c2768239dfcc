"""The caller's side: client, proxies, options, sync. May import transports, wire, extensions."""
