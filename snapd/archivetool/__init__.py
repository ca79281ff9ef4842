"""`snapd-storage archive`: what lies in an archive, read without a daemon, and beside one that runs.

It claims nothing and changes nothing but for read leases, which keep owners from deleting what is being read.
"""
