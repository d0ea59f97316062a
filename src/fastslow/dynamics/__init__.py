"""The study of the dynamics (paper, section 4.2): what networks remember, how fast it changes, where they err."""
