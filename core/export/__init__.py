"""Out of the house: an adapter as files that other programs take, and the proof that the files are what was tested."""
