"""python -m cosim: the command line."""

from cosim.cli import main

main()
