"""Reads a source (file, folder, Hub data set or built-in data set) and turns it into rows of token ids."""
