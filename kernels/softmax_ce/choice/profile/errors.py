"""The error and the warning for profiles that cannot be used."""


class ProfileError(ValueError):
    """Raised if a profile cannot be used. The message names the file and the reason."""


class ProfileWarning(UserWarning):
    """Issued if a profile exists but is not followed. The message names the file, the reason and what runs instead."""
