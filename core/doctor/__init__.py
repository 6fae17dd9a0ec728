"""What is wrong with a table before training on it, and how it is mended: one check a function, remembered by row."""
