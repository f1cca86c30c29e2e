"""One file per op: mathematics and shapes, plain-torch reference, registration, public function."""
