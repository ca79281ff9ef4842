"""snapvol, the command line: the daemon's API for people and scripts, one module per noun."""
