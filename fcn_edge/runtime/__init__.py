"""Source, engine, overlay, sink and the loop that joins them; knows nothing about torch."""
