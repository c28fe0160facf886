"""The profile: its file, its rules, and how a call follows it. :mod:`softmax_ce.profile` has the public names."""
