"""Lending disks to guests: what lies between the rows of attachments and the storage daemons that serve them.

groups    how the process of a row is reached, started and ended
held      layers under attached disks, pinned as long as they are lent
lending   files lent to the account of a storage daemon, and taken back
disks     a disk brought up in a storage daemon, and taken down again
revival   a storage daemon that has died, started anew on the same sockets
adoption  what is done at start about storage daemons that have outlived us

Who calls holds the mutex of the disk and that of its group (`groups.key`), or is recovery.
"""
