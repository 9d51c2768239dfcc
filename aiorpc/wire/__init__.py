"""The protocol as values and pure functions. Nothing in this room awaits or opens anything."""
