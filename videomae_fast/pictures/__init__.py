"""What training sees and makes, as pictures."""
