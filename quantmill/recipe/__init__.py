"""The user's request: a recipe with texts and variants, and the facts of methods and sources."""

__all__ = ["layer_rules", "methods", "packing", "programs", "recipe", "recipe_file", "schemes", "texts"]
