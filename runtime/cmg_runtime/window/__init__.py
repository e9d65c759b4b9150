"""Every environment's reference: the current frame, the frames to come, and how they are made."""
