"""Money: accounts, tariffs and charging."""
