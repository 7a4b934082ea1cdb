"""Carrying plans out: the only package that touches the C core."""
