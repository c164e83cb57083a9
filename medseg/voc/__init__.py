"""The PASCAL VOC 2012 segmentation reference: what was published, and the same number measured."""
