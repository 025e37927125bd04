"""The paper's scaling studies: tables of networks to train and budgets to measure, and their laws.

`python -m training.scaling STUDY --scale tiny --out DIR` trains and measures what is missing in
DIR, then writes its table, its figure and its fitted laws; see `training.scaling.__main__`.
"""
