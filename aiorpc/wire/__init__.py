"""The wire protocol: values and pure functions. Nothing in this folder awaits or does I/O."""
