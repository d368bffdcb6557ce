"""The long study: trainings measured on their whole way, and their results."""
