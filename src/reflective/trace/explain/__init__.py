"""What each system call is for, from evidence: ELF files, mappings, earlier calls, environment. No evidence, no words.

facts.py: a call as recorded; state.py: what is known of a process; follow.py: from one state to the next; rules.py: who may
speak about which call; files, search, segments, startup, libc, data, threads, exits, loader: the sentences; callers.py: who
called; reader.py: puts them below the lines.
"""
