"""The work of each scheme of model sources, in a module that is called as its row in `quantmill/recipe/schemes`."""
