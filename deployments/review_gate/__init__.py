"""Which posts a person must see again at a view-count milestone: calibrated thresholds with a guaranteed recall."""
