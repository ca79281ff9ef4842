"""The copier: block maps in, bytes moved.

It reads chains of layers by extents, a window of guest addresses at a time, with a bounded number of buffers in flight,
so that memory depends on neither the size nor the fragmentation of a disk. `record` carries a chain into the archive,
`restore` brings a manifest back, `convert` rewrites one image into another, `export` cuts a disk into messages;
`control` is what all of them heed and tell. It knows layers and manifests, and nothing of volumes or snapshots.
"""
