"""The catalog: what exists, what is under way and what has happened, in SQLite.

`schema` explains the tables, `migrations` makes them, `db` opens them; the other modules own one table or two each and
turn rows into `snapd.model` objects. They take a connection or a transaction and know nothing of each other's meaning.
"""
