"""Which patched activations are farther out than nearly all clean ones, and what are effects without them?"""
