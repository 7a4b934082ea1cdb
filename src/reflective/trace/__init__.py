"""Watching programs: starts that stop to be looked at, sessions, system calls, phases."""
