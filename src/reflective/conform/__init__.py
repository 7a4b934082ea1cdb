"""The kernel as the oracle: one self-describing program, started by execve and by a loader, compared property by property."""
