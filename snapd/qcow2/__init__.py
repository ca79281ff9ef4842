"""The qcow2 image format: read, map, create, write, fold, check. Knows files, and nothing of volumes or catalogs."""
