"""What a run or a machine shows: pictures, comparisons, the environment."""
