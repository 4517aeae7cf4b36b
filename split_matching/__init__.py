"""Split Matching: zero-shot semantic segmentation from cached CLIP features.

In a checkout the folders `cache`, `configs`, `model`, `stages` and `pipeline` lie at the top, and links beside this
file make them one package; an installed package holds them here.
"""
