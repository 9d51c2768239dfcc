"""
Looks at parked messages, replays and purges them. Awaits the transport. Only the command line
imports this room.
"""
