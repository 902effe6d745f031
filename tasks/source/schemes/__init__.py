"""The code of each scheme of model sources, named as the scheme's row in `quantmill/recipe/schemes`."""
