"""Whole fields: images too large for one scene, as many scenes whose seams are settled."""
