"""The model: images to features to scores."""
