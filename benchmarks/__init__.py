"""One file per question: `python -m benchmarks.NAME [--quick] [--json PATH]`; `python -m benchmarks` runs them all.

Every figure is a ratio to a baseline measured in the same run, because machines differ and are noisy.
"""
