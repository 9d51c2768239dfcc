"""Looks at parked messages, replays and purges them. Nothing else in aiorpc imports this room."""
