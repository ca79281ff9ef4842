"""Where the archive's objects lie. One contract (`backend`), one module for each kind of store, one suite of tests for all."""
