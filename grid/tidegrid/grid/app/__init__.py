"""The process: its configuration, what it serves, and the command line."""
