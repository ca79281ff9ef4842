"""The multi-step changes, a module each: what the intent holds, its steps, its commit and its undo."""
