"""Commands on the catalog and on what it is about, for when no daemon runs.

fsck   compare catalog, pool and archive, and mend what can be mended
"""
