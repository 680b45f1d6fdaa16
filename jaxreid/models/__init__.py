"""The model: images to features, features to scores."""
