"""A loaded model: images to features, features to scores, ranked lists, explanations, results."""
