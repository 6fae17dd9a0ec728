"""An export on its way to a hub: what is sent, to whom, after whose word. `push` is the way in."""
