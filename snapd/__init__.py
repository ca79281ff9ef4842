"""snapd: the host-side daemon that owns the volumes and snapshots of a hypervisor.

This package imports nothing, so that the client and the command line start fast and need no numpy.
"""
