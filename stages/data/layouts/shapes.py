"""The layout of the rendered scenes: that of VOC, so that they and photographs are read in the same way."""

from split_matching.stages.data.layouts import voc

LAYOUT = voc.LAYOUT
