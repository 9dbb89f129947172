"""Maps, meteograms, animations and scorecards."""
