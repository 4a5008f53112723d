"""The claims of the grid, each measured beside its yardstick in one run: `python -m bench --help`."""
