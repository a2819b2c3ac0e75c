"""The recipe: the options of `run`, as a TOML file.

schema         its sections and keys, with their types, defaults and meanings
pass_sections  the sections of passes
toml_reading   from a file to a recipe; a fault is refused with its line and the allowed values
sections       sections of a recipe whose keys are made of the options of a pass
"""

from onnxprune.app.recipe.schema import Recipe, ScheduleSection
from onnxprune.app.recipe.toml_reading import line_of, read_recipe

__all__ = ["Recipe", "ScheduleSection", "line_of", "read_recipe"]
