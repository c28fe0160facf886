"""Which backend runs a call: the one it names, else that of a variable, of a measured profile, or a safe default."""
