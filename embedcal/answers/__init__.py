"""What each command answers: a JSON record, and a report for people made from the same values."""
