"""HTTP below the routes: sockets, connections, life cycle, streams, errors, the table of routes."""
