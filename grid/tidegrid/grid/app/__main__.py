"""`python -m tidegrid.grid.app`: the command line where its script is not on the path."""

from tidegrid.grid.app.main import run

run()
