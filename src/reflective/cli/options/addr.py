"""The options of `reflective addr`."""

from __future__ import annotations

from argparse import ArgumentParser

from .common import color, process

EXAMPLES = """\
examples:
  reflective addr $$ 0x7f5e2b6a1994           object, segment, section, symbol, source line, page of an address
  reflective addr $$ libc.so.6+0x77994 puts+20   the other way round: a place in a file, a symbol
  reflective addr $$ ld-linux-x86-64.so.2:malloc memcpy@GLIBC_2.14   of one object; of one version
  reflective addr --json $$ main | jq .link_address   one JSON object an address (schema reflective.addr/1)

A name without an object is looked for in every mapped ELF file: one answer for each that defines it. Numbers are decimal
unless they begin with 0x, or look like those in /proc/PID/maps. More in docs/addr.md.
"""


def add(parser: ArgumentParser) -> None:
    """Its options and arguments."""
    parser.add_argument("--json", action="store_true", help="one JSON object an address")
    color(parser)
    parser.add_argument("pid", metavar="PID", type=process, help="the process whose addresses they are")
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS", help="a number, OBJECT+OFFSET or [OBJECT:]SYMBOL[+OFFSET]")
