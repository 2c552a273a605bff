"""How were the bundled demo models made, and how does one make them again?

`python -m rewarden.demo.recipe --data DIR --out DIR` retrains them from public text and from the project's own pairs.
In the package, only the recipe of the policy (`rewarden.training.arithmetic.recipe`) imports this one: for the manifest.
"""

from rewarden.demo.recipe.generator import generate

__all__ = ["generate"]
