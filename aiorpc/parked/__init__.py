"""
Looks at parked messages, replays and purges them. Awaits the transport. Only the command line
and the console import this room.
"""
