"""The scripts behind the published results, the records of their measurements, and the report built from them."""
