"""The format itself: its numbers, its header and lists, its counters and locks."""
