"""What is trained: nets, losses, data, recipes, the loop."""
