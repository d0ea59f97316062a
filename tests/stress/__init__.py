"""What runs for minutes and hours: training that is killed again and again, and damaged files."""
