"""What `cosim prune` does, from a recipe to a pruned network and its figures.

`recipe` (the options, and the keys of a recipe file), `checking` (what can be refused before anything is trained),
`choosing` (what stays), `folder` (files, resume), `running` (dense network, removal in steps, recovery), `figures`.
"""
