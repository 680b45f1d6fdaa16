"""Planning: the compiled programs of a recipe for devices that are not there."""
