"""Measuring starts of programs: who starts, what is started, from how large a process."""
