"""Reading ELF files."""
