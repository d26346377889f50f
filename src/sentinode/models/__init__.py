"""What training leaves behind: a bundle on disk, and what recognises tiles with it on this CPU."""
