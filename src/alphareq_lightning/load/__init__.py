"""Models and images from names and files."""
