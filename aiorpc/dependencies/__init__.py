"""What a service is given for each call. Each file stands on ``aiorpc.extensions``, no sibling."""
