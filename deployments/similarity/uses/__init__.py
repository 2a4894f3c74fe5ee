"""Why one searches: content in and out of the index, duplicates, protected works, known-bad lists, what was shown."""
