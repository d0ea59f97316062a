"""The bundled English model: its training text, its training, its figures and its package."""
