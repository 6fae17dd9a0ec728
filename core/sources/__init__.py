"""Where rows to mix in come from: built-in sets, saved datasets, files, and the hubs' sets. `found` is the way in."""
