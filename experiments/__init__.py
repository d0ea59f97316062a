"""The scripts behind the published figures, the records of what they measured, and the report made of those."""
