"""The main job: a scene taken apart, sampled, and written to tables."""
