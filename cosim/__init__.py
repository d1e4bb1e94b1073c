"""Networks, pruning, the coupling to hardware, and the user interface. See `cosim.cli` for the command line."""
