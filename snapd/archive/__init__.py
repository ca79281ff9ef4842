"""The archive: content-addressed blocks in packs, with manifests, on secondary storage.

docs/archive-format.md is its law. The modules, from the outside in:

repository   open, begin, manifest, collect: what the service layer talks to
recording    one snapshot on its way in            collection   packs that nothing reaches, on their way out
tree         the pages of a recording              manifest     the pages of a published snapshot, read
blobs        store once, read verified             index, pins  which pack has it, who relies on it
pack         objects of many blobs                 codec, names, entries, documents, layout: the format's letters
backends     where objects lie
"""
