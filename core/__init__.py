"""What every part of Montana stands on."""
