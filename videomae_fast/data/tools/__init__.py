"""Work on whole lists of videos: check them, transcode them."""
