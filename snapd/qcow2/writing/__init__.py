"""Images written: new ones, clusters and tables in an order that a kill can't hurt, and files merged."""
