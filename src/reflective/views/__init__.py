"""Values to text and JSON. Nothing here collects or computes."""
