"""Where the archive's objects lie: one contract (`backend`), one module for each kind of store, one suite for all."""
