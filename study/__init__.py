"""The case study at length: trainings measured on their whole way, and their results."""
