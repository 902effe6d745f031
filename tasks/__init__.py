"""The work: one stage a module, plain functions. They look their result up in the store and make it where it is missing."""
