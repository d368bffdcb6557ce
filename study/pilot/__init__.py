"""The case study: does α choose Barlow Twins hyperparameters better than the loss does?"""
