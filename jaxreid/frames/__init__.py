"""People cut out of frames: frames of a camera, boxes around people in them, and crops."""
