"""Images read: tables as arrays, one file's map and bytes, several files as the guest sees them."""
