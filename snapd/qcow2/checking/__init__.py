"""Images judged: references counted and compared, foreign files vetted, refcounts repaired."""
