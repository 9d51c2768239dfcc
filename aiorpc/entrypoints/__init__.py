"""What fires methods. Each file is one kind; it stands on ``aiorpc.extensions``, on no sibling."""
