"""Calls and rooms: who meets whom, and what passes between browsers before media does."""
