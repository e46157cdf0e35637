"""The Telegram bridge: a bot that people write to, and that rings them."""
