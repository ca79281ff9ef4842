"""Comparing catalog, pool and archive with one another: what is missing, what nobody explains, what contradicts.

findings   what can be found, and how it is told
rows       the catalog alone
files      the catalog and the pool's files
copies     the catalog and the archive
"""
