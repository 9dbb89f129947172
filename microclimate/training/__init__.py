"""Windows of weather, losses, optimisers and the training loop."""
