"""One module per subcommand: its options as a dataclass, and `run(argv) -> exit status`."""
