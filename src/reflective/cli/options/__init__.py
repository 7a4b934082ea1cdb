"""The options of each subcommand, in a module of its name: its EXAMPLES, and add(), which gives them to a parser."""
