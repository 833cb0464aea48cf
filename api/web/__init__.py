"""For browsers: the page and the interactive documentation."""
