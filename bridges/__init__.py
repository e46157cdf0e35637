"""Processes of their own that carry other worlds to the node."""
