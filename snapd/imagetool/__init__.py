"""`snapd-storage image`: looks at image files, checks and mends them by their paths, without a daemon or its catalog.

It reads through the engine of `snapd.qcow2` alone, and answers in the words of `qemu-img`.
"""
