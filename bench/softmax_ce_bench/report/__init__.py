"""What was measured, for people (tables) and for programs (record)."""
