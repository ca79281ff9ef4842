"""What keeps hosts that share a store from harming each other: claims, what is believed, removals, read leases.

docs/archive-sharing.md is its design, with the attacks that it was tried against.
"""
