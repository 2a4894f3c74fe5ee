"""`parakh index`: the partitions of a data directory, cared for by the process that owns them."""
