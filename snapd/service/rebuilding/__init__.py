"""Rebuilding a lost catalog from what is left: a backup, the headers of the pool's layers, the archive's manifests.

base       what the backup says: the truth about names
survey     what the pool's files say: the truth about layers
copies     what the archive's manifests say: the truth about what is archived
evidence   the three together, and what each of them is believed
heads      which file is a volume's head
points     which layer shows which point, and what lies before it
snapshots  what becomes of each snapshot
naming     ids that are taken, wanted twice, or none
joining    all of the above, into the rows of a new catalog
report     what came from where, for people and programs
writing    the new catalog's file, checked and published
rebuild    the whole of it, in order

What decides are pure functions of dataclasses. Nothing here changes a file of the pool or an object of the archive.
"""
