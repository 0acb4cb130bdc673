"""A CLIP small enough to ship: 64-pixel images, CLIP's tokenizer, weights beside the code."""
