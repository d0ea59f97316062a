"""Long tests (minutes to hours): trainings that are killed repeatedly, and damaged files."""
