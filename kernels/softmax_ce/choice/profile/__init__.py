"""Profiles: their files, their rules, and how calls follow them. The public names are in :mod:`softmax_ce.profile`."""
