"""The live page, and the same in a terminal."""
