"""The pool: layers as files on primary storage.

`layers` owns paths, creation and removal; `pins` keeps readers and folds out of each other's way. What the layers mean,
and which of them is needed, is the catalog's and the service layer's business.
"""
