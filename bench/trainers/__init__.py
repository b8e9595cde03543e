"""Compares our training with that of torch-rechub and deepctr-torch on equal inputs, parts and labels."""
