"""An interactive view of results in a browser, on viser: what a folder holds, its place in the view, the server."""
