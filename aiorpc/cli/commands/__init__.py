"""One file per command of ``aiorpc``."""
