"""What every contestant of the language-model benchmark shares: the text, the clock, the counts, files, report."""
