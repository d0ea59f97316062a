"""The study of the dynamics (paper, section 4.2): gradients over time, change of memory, errors inside words."""
