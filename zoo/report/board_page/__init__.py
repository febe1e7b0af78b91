"""The sections of a board's HTML page, one module each: a board in, plain data for its template out."""
