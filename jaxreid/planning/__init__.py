"""Planning: the compiled programs of a recipe for devices that you do not have."""
