"""The slots of the global offset tables, and who fills them with what."""
