"""What a user asks for: a recipe, its texts, its variants, and the methods and sources that they may name."""

__all__ = ["layer_rules", "methods", "packing", "programs", "recipe", "recipe_file", "schemes", "texts"]
