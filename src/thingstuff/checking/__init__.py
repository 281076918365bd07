"""What is wrong, doubtful or worth knowing about a data set, and repaired copies of it."""
