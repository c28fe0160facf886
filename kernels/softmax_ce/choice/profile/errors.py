"""What can be wrong with a profile, as an error and as a warning."""


class ProfileError(ValueError):
    """A profile that cannot be used; the message names the file and the reason."""


class ProfileWarning(UserWarning):
    """A profile is there and is not followed; the message names the file, the reason and what runs instead."""
