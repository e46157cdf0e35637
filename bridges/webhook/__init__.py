"""SMS that are no commands, forwarded to their owners' URLs."""
