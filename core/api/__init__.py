"""Both ends of the node's Unix socket."""
