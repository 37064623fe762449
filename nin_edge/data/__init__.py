"""What the user has -> arrays: which files DATA means, how they are split, decoded and cached."""
