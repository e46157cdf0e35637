"""What moves packets: the interface and its engines."""
