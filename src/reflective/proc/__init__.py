"""What /proc says of a process, as values."""
