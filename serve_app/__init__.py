"""What faces the outside: configuration, graph, pipeline, HTTP, records, command line."""
