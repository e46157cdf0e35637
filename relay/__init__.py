"""The node: TURN, its data plane, pages and the command line."""
