"""Policies as data: which score of which category, in which language, makes which action. Pure, no node."""
