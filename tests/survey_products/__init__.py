"""Small files laid out as surveys deliver them, each with a known star and a known galaxy."""
