"""Volumes that a guest is using: processes of qemu-storage-daemon, what they serve, and how they are spoken to.

qmp       a session on a monitor's socket: commands, replies, events, each within a time
graph     the block nodes and exports of a chain of layers, as QEMU takes them; nothing but functions
nbd       a client that looks at an export and flushes it
process   a process that is told from every other one, however often its number is used again
lending   files lent to another account by access lists
launcher  the contract of who starts storage daemons; direct, systemd: the two that do
storage   one storage daemon with its exports

Only this room knows QMP. It knows files by their paths: what they hold, and what the catalog says of them, is the
service's business.
"""
